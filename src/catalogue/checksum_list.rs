//! Publishers' files of checksums.

use super::Form;
use crate::model::image::{Algorithm, Checksum};

/// The checksum of the file `name` in a file of checksums.
///
/// Lines are read as sha256sum (`SUM  NAME`, `SUM *NAME`) or BSD's sha256 (`SHA256 (NAME) = SUM`) print them, whichever
/// they are; `form` says which kind of checksum they are meant to be, because publishers put other kinds beside it. In
/// a file that is of this image `alone` a single checksum may name none, or the dated file that a `latest` one is.
pub fn find(text: &str, form: Form, name: &str, alone: bool) -> Option<Checksum> {
    let lines: Vec<_> = text.lines().filter_map(|line| read(line, form)).collect();
    let named = lines.iter().find(|(known, _)| file_name(known) == name);
    match (named, &lines[..]) {
        (Some((_, sum)), _) => Some(sum.clone()),
        (None, [(known, only)]) if alone && is_akin(file_name(known), name) => Some(only.clone()),
        _ => None,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether two names may be of the same image: they begin alike, as a dated one and a `latest` one do.
fn is_akin(known: &str, name: &str) -> bool {
    let common = known.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    known.is_empty() || common * 2 >= name.len()
}

/// The name and the checksum of a line; none of one that is something else: a comment, a signature's armour.
fn read(line: &str, form: Form) -> Option<(&str, Checksum)> {
    let line = line.trim_start_matches('\u{feff}').trim();
    // sha256sum marks a name in which it had to escape something.
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
    fn alone_in_its_file_a_checksum_may_name_the_dated_image_or_none() {
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
    fn what_names_other_files_or_is_no_checksum_is_none() {
        let (a, c) = (hex(Algorithm::Sha256, "a"), hex(Algorithm::Sha512, "c"));
        for (form, text) in [
            (Form::Sha256Sums, String::new()),
            (Form::Sha256Sums, "<!DOCTYPE html>\n<html>Not here</html>".to_owned()),
            (Form::Sha256Sums, format!("{a} *y.img\n{a} *z.img\n")),
            (Form::Sha256Sums, format!("{a} *ax.img\n{a} *x.img.zsync\n")),
            // Another kind than was announced.
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
