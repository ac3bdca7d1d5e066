//! The guests' host keys, in a file that plain ssh reads: one for each libvirt connection, made anew each time, so that
//! it holds nothing that is not true any more.

use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    error::{Error, Result},
    model::digest,
};

/// Writes the file in `folder` for the connection `uri`; returns its path. Each guest is an alias and its keys.
pub fn write<'k>(
    folder: &Utf8Path,
    uri: &str,
    guests: impl Iterator<Item = (String, &'k Vec<String>)>,
) -> Result<Utf8PathBuf> {
    let path = folder.join(format!("known_hosts-{}", &digest::of(uri.as_bytes())[..8]));
    let lines = guests.flat_map(|(alias, keys)| keys.iter().map(move |key| format!("{alias} {key}\n")));
    let text = format!("# Made by vmprov for {uri}; changes are lost.\n{}", lines.collect::<String>());
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(format!("write the host keys to `{path}`"), &error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_is_true_now() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap().join("new");
        let keys = vec!["ssh-ed25519 AAAA web".to_owned(), "ecdsa-sha2-nistp256 BBBB web".to_owned()];
        let path = write(&folder, "qemu:///system", [("u-1".to_owned(), &keys), ("u-2".to_owned(), &keys)].into_iter())
            .unwrap();
        let other = write(&folder, "qemu:///session", std::iter::empty()).unwrap();
        assert_ne!(path, other);
        write(&folder, "qemu:///system", [("u-2".to_owned(), &keys)].into_iter()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["u-2 ssh-ed25519 AAAA web", "u-2 ecdsa-sha2-nistp256 BBBB web"]);
        assert_eq!(folder.read_dir_utf8().unwrap().count(), 2, "a temporary file is left");
    }
}
