//! Converts a guide in Markdown to a manual page.

use clap_mangen::roff::{Inline, Roff, bold, italic, line_break, roman};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Returns the manual page of a guide. `about` takes the place of its first heading.
pub(crate) fn manual_page(name: &str, section: &str, about: &str, markdown: &str) -> String {
    let mut page = Page::default();
    // The empty argument stands for a date, which would change the page every day.
    let source = concat!("vmprov ", env!("CARGO_PKG_VERSION"));
    page.roff.control("TH", [name, section, "\"\"", source, "vmprov"]);
    page.roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.add(event);
    }
    page.roff.control("SH", ["SEE ALSO"]).text([bold("vmprov"), roman("(1)")]);
    // groff would print a plain tilde as an accent.
    page.roff.render().replace('~', r"\(ti")
}

/// A page that is being written.
#[derive(Default)]
struct Page {
    roff: Roff,
    /// The inline texts since the last block began.
    line: Vec<Inline>,
    /// The fonts around the current text, and whether each is bold.
    fonts: Vec<bool>,
    in_code_block: bool,
    /// Whether the next paragraph belongs to the line of a list item's mark.
    in_item: bool,
    /// The header of the current table.
    header: Vec<Vec<Inline>>,
    /// The cells of the current row.
    row: Vec<Vec<Inline>>,
}

impl Page {
    fn add(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.in_code_block => {
                for line in text.lines() {
                    self.roff.text([roman(line)]);
                }
            }
            Event::Text(text) => self.line.push(match self.fonts.last() {
                Some(true) => bold(&*text),
                Some(false) => italic(&*text),
                None => roman(&*text),
            }),
            Event::Code(text) => self.line.push(bold(&*text)),
            Event::SoftBreak => self.line.push(roman(" ")),
            Event::HardBreak => self.line.push(line_break()),
            // Marks of generated parts.
            Event::Html(_) => {}
            other => panic!("a manual page cannot contain {other:?}"),
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Paragraph if !std::mem::take(&mut self.in_item) => {
                self.roff.control("PP", []);
            }
            Tag::CodeBlock(_) => {
                self.in_code_block = true;
                self.roff.control("PP", []).control("RS", ["4"]).control("nf", []);
            }
            Tag::Item => {
                self.flush();
                self.in_item = true;
                self.roff.control("IP", [r"\(bu", "2"]);
            }
            Tag::Strong => self.fonts.push(true),
            Tag::Emphasis => self.fonts.push(false),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => {
                self.line.clear();
                self.roff.control("SH", ["DESCRIPTION"]);
            }
            TagEnd::Heading(_) => {
                let title: String = std::mem::take(&mut self.line).iter().map(text).collect();
                self.roff.control("SH", [title.to_uppercase().as_str()]);
            }
            TagEnd::Paragraph => self.flush(),
            TagEnd::Item => {
                self.flush();
                self.in_item = false;
            }
            TagEnd::CodeBlock => {
                self.in_code_block = false;
                self.roff.control("fi", []).control("RE", []);
            }
            TagEnd::Strong | TagEnd::Emphasis => drop(self.fonts.pop()),
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => self.header = std::mem::take(&mut self.row),
            TagEnd::TableRow => self.table_row(),
            _ => {}
        }
    }

    /// Writes a row of a table as an entry of a list: the first cell, and below it the others. A terminal is too narrow
    /// for a table. With more than two columns, each cell is preceded by its title.
    fn table_row(&mut self) {
        let mut cells = std::mem::take(&mut self.row).into_iter().zip(&self.header);
        let Some((first, _)) = cells.next() else { return };
        self.roff.control("TP", []).text(first);
        let mut body = Vec::new();
        for (cell, title) in cells.filter(|(cell, _)| !cell.is_empty()) {
            if self.header.len() > 2 {
                let before = if body.is_empty() { "" } else { "; " };
                body.push(roman(format!("{before}{}: ", title.iter().map(text).collect::<String>())));
            }
            body.extend(cell);
        }
        self.roff.text(body);
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
        }
    }
}

/// The text of an inline without its font.
fn text(inline: &Inline) -> &str {
    match inline {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text,
        Inline::LineBreak => " ",
    }
}
