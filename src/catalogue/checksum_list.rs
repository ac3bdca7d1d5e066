//! Publishers' checksum files.

use super::Form;
use crate::model::image::{Algorithm, Checksum};

/// Returns the checksum of the file `name` in a checksum file.
///
/// Both the format of sha256sum (`SUM  NAME`, `SUM *NAME`) and that of BSD's sha256 (`SHA256 (NAME) = SUM`) are
/// recognized. `form` selects the algorithm, because publishers list other algorithms as well. With `is_single`, the
/// file is only for this image. Then its only checksum may have no name, or the dated name that a `latest` image stands
/// for.
pub fn find(text: &str, form: Form, name: &str, is_single: bool) -> Option<Checksum> {
    let lines: Vec<_> = text.lines().filter_map(|line| read(line, form)).collect();
    let named = lines.iter().find(|(known, _)| file_name(known) == name);
    match (named, &lines[..]) {
        (Some((_, sum)), _) => Some(sum.clone()),
        (None, [(known, only)]) if is_single && is_similar(file_name(known), name) => Some(only.clone()),
        _ => None,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns whether two names can be of the same image: both begin alike, like a dated and a `latest` name.
fn is_similar(known: &str, name: &str) -> bool {
    let common = known.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    known.is_empty() || common * 2 >= name.len()
}

/// Returns the name and the checksum of a line, or `None` for any other line, such as a comment or a signature.
fn read(line: &str, form: Form) -> Option<(&str, Checksum)> {
    let line = line.trim_start_matches('\u{feff}').trim();
    // sha256sum begins a line with a backslash if it escaped characters of the name.
    bsd(line)
        .or_else(|| gnu(line.trim_start_matches('\\'), form))
        .filter(|(_, sum)| form.algorithm().is_none_or(|algorithm| algorithm == sum.algorithm))
}

fn bsd(line: &str) -> Option<(&str, Checksum)> {
    let (kind, rest) = line.split_once(" (")?;
    let (name, sum) = rest.rsplit_once(") = ")?;
    let algorithm = match kind {
        "SHA256" => Algorithm::Sha256,
        "SHA512" => Algorithm::Sha512,
        _ => return None,
    };
    Some((name, Checksum::new(algorithm, sum.trim())?))
}

fn gnu(line: &str, form: Form) -> Option<(&str, Checksum)> {
    let (sum, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let kinds = form.algorithm().map_or(&[Algorithm::Sha256, Algorithm::Sha512][..], |_| &[]);
    let sum = form.algorithm().as_slice().iter().chain(kinds).find_map(|&kind| Checksum::new(kind, sum))?;
    Some((name.trim_start().trim_start_matches('*'), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(algorithm: Algorithm, digit: &str) -> String {
        digit.repeat(algorithm.digits())
    }

    #[test]
    fn each_form_is_read() {
        let (a, b) = (hex(Algorithm::Sha256, "a"), hex(Algorithm::Sha256, "b"));
        let c = hex(Algorithm::Sha512, "c");
        for (form, text, sum) in [
            (Form::Sha256Sums, format!("{b} *y.img\n{a} *x.img\n"), format!("sha256:{a}")),
            (Form::Sha256Sums, format!("{b}  y.img\n{}  ./x.img\n", a.to_uppercase()), format!("sha256:{a}")),
            (Form::Sha256Sums, format!("{a} x.img"), format!("sha256:{a}")),
            (Form::Sha512Sums, format!("{c}  x.img\r\n{c}  y.img\r\n"), format!("sha512:{c}")),
            (
                Form::Bsd,
                format!(
                    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# y.img: 1 bytes\nSHA256 (y.img) = {b}\n\
                     SHA256 (x.img) = {a}\n-----BEGIN PGP SIGNATURE-----\n"
                ),
                format!("sha256:{a}"),
            ),
            (Form::Bsd, format!("SHA512 (x.img) = {c}\nSHA256 (y.img) = {b}"), format!("sha512:{c}")),
        ] {
            assert_eq!(find(&text, form, "x.img", false).map(|sum| sum.to_string()), Some(sum), "{text}");
        }
    }

    #[test]
    fn a_single_checksum_may_have_a_dated_name_or_none() {
        let (a, c) = (hex(Algorithm::Sha256, "a"), hex(Algorithm::Sha512, "c"));
        let latest = "Rocky-9-GenericCloud.latest.x86_64.qcow2";
        let dated = format!("SHA256 (Rocky-9-GenericCloud-9.6-20260101.x86_64.qcow2) = {a}\n");
        assert!(find(&dated, Form::Bsd, latest, true).is_some() && find(&dated, Form::Bsd, latest, false).is_none());
        assert!(find(&format!("{c}\n"), Form::Sha512Sums, latest, true).is_some());
        for other in [format!("{a}  Fedora-9.qcow2\n"), format!("{dated}{dated}")] {
            assert_eq!(find(&other, Form::Sha256Sums, latest, true), None);
        }
    }

    #[test]
    fn lines_of_other_files_and_other_text_are_ignored() {
        let (a, c) = (hex(Algorithm::Sha256, "a"), hex(Algorithm::Sha512, "c"));
        for (form, text) in [
            (Form::Sha256Sums, String::new()),
            (Form::Sha256Sums, "<!DOCTYPE html>\n<html>Not here</html>".to_owned()),
            (Form::Sha256Sums, format!("{a} *y.img\n{a} *z.img\n")),
            (Form::Sha256Sums, format!("{a} *ax.img\n{a} *x.img.zsync\n")),
            // The algorithm is not the one of the form.
            (Form::Sha256Sums, format!("{c}  x.img\n")),
            (Form::Sha512Sums, format!("{a}  x.img\n")),
            (Form::Bsd, "MD5 (x.img) = d41d8cd98f00b204e9800998ecf8427e".to_owned()),
            (Form::Sha256Sums, format!("{}  x.img\n", &a[1..])),
            (Form::Sha256Sums, format!("{a}  only.img\n")),
            (Form::Sha256Sums, format!("{a}\n")),
        ] {
            assert_eq!(find(&text, form, "x.img", false), None, "{text}");
        }
    }
}
