//! The key store: NAME (private, 0600) and NAME.pub in one folder (0700), as `ssh -i` accepts them.
//!
//! Nothing is overwritten, and no link in the folder is followed. The private file is written first. So a kill leaves
//! either a complete key, whose public half can be read from the private one, or a file that [`KeyStore::list`] reports
//! and [`KeyStore::delete`] removes. The store returns the path of a private key, never its content.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, private::KeypairData, rand_core::OsRng};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Hint, Result},
    model::{
        key::{Key, KeyKind, NewKey},
        name::Name,
    },
    store::{
        key_file::{self, KeyFile},
        rsa::{self, Effort},
        secret_file::{self, NewFile},
    },
};

/// The size limit of a key file. An RSA key of 16384 bits takes 13 KiB.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// All permissions of group and others. ssh rejects a private key that has any of them.
const OTHERS: u32 = 0o077;

/// The write permissions of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// The sticky bit of a folder: only the owner of a file can replace it.
const STICKY: u32 = 0o1000;

/// The folder with the keys.
#[derive(Debug, Clone)]
pub struct KeyStore {
    dir: Utf8PathBuf,
    effort: Effort,
    cancel: Cancel,
}

/// The content of the folder.
#[derive(Debug)]
pub struct Listing {
    /// The keys, sorted by name.
    pub keys: Vec<Key>,
    /// The errors of all other files. A broken file does not keep the others from being listed.
    pub unusable: Vec<Error>,
}

impl KeyStore {
    /// Returns a store in `dir`, an absolute path. The folder is created with the first key.
    pub fn new(dir: &Utf8Path) -> Self {
        Self { dir: dir.to_owned(), effort: Effort::default(), cancel: Cancel::default() }
    }

    /// Returns the same store, with a generation of keys that `cancel` can stop.
    #[must_use]
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }

    /// Returns the same store, with this effort for the generation of keys.
    #[must_use]
    pub fn with_effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }

    /// Returns how much of the machine the generation of a key may use.
    pub const fn effort(&self) -> Effort {
        self.effort
    }

    /// Generates a key pair.
    pub fn generate(&self, new: &NewKey) -> Result<Key> {
        new.check()?;
        // Checked early to fail quickly. What guarantees it is that the files are created exclusively.
        self.refuse_existing(&new.name)?;
        let private = match new.kind {
            KeyKind::Ed25519 => PrivateKey::random(&mut OsRng, Algorithm::Ed25519),
            KeyKind::Rsa => {
                let pair = rsa::generate(new.rsa_bits(), self.effort, &self.cancel)?;
                PrivateKey::new(KeypairData::Rsa(pair), "")
            }
        };
        let mut private = private.map_err(|error| Error::internal("cannot generate a key").because(error))?;
        private.set_comment(new.comment()?);
        let text = private.to_openssh(LineEnding::LF).map_err(cannot_encode)?;
        self.write(&new.name, Some(&text), private.public_key())
    }

    /// Imports a key: a private one, encrypted or not, or only a public one.
    pub fn import(&self, name: &Name, file: &Utf8Path) -> Result<Key> {
        let content = secret_file::read(file, MAX_FILE_BYTES)?;
        let (mut public, private) = match key_file::parse(file.as_str(), &content)? {
            KeyFile::Private(private, public) => (public, Some(private)),
            KeyFile::Public(public) => (public, None),
        };
        self.refuse_existing(name)?;
        // The comment of an encrypted key is encrypted as well, so it reads as empty.
        if public.comment().is_empty() {
            public.set_comment(name.as_str());
        }
        self.write(name, private.as_deref().map(String::as_str), &public)
    }

    /// Lists the keys, and the other files in the folder.
    pub fn list(&self) -> Result<Listing> {
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for file in self.files()? {
            match file.strip_suffix(".pub").unwrap_or(&file).parse::<Name>() {
                Ok(name) => drop(names.insert(name)),
                Err(_) => unusable.push(self.misnamed(&file)),
            }
        }
        for name in &names {
            match self.get(name) {
                Ok(key) => keys.push(key),
                // It was deleted after the folder was read.
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => unusable.push(error),
            }
        }
        Ok(Listing { keys, unusable })
    }

    /// Returns a key. The private file is read only if the public one is missing.
    pub fn get(&self, name: &Name) -> Result<Key> {
        let (private, public) = self.paths(name);
        let private_key_path = self.regular_file(private)?;
        let public_key_path = self.regular_file(public)?;
        let key = match (&public_key_path, &private_key_path) {
            (None, None) => return Err(self.missing(name)),
            (None, Some(private)) => read_private(private).map_err(|e| e.hint(removal(name)))?,
            (Some(public), None) => read_public(public).map_err(|e| e.hint(removal(name)))?,
            (Some(public), Some(private)) => read_public(public)
                .map_err(|e| e.hint(format!("Delete this file; the public key is then read from `{private}`")))?,
        };
        Ok(Key {
            name: name.clone(),
            kind: key_file::kind(key.key_data()).unwrap_or("unknown").to_owned(),
            bits: key_file::bits(key.key_data()),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            comment: key.comment().to_owned(),
            public_key: key.to_openssh().map_err(cannot_encode)?,
            public_key_path,
            private_key_path,
        })
    }

    /// Deletes both halves of a key, or the one that exists.
    pub fn delete(&self, name: &Name) -> Result<()> {
        let (private, public) = self.paths(name);
        // The private half is deleted first. A kill in between leaves a public key, which another call deletes.
        if !(secret_file::remove(&private)? | secret_file::remove(&public)?) {
            return Err(self.missing(name));
        }
        self.sync()
    }

    /// Returns the path to pass to `ssh -i`.
    pub fn private_key_path(&self, name: &Name) -> Result<Utf8PathBuf> {
        let Some(path) = self.get(name)?.private_key_path else {
            return Err(Error::conflict(format!("no private key for `{name}`"))
                .hint("Choose another key, or log in from the machine that has the private key"));
        };
        let metadata = self.metadata(&path)?.ok_or_else(|| self.missing(name))?;
        if metadata.permissions().mode() & OTHERS != 0 {
            let message = format!("ssh rejects the key `{name}`: other users have access to its file");
            let command = format!("chmod 600 {}", shell_words::quote(path.as_str()));
            return Err(Error::new(Code::Denied, message).hint(Hint::run("Restrict its permissions", command)));
        }
        Ok(path)
    }

    /// Returns a warning if other users can write to the folder.
    ///
    /// It is not an error, because ssh ignores it too, and folders that are mounted into containers are often writable.
    pub fn warning(&self) -> Option<String> {
        self.exposure().map(|(problem, command)| format!("{problem}: run `{command}`"))
    }

    /// Returns the problem that [`Self::warning`] reports, and the command that fixes it.
    pub fn exposure(&self) -> Option<(String, String)> {
        let dir = &self.dir;
        let mode = fs::metadata(dir).ok()?.permissions().mode();
        (mode & OTHERS_WRITE != 0 && mode & STICKY == 0).then(|| {
            let command = format!("chmod go-w {}", shell_words::quote(dir.as_str()));
            (format!("other users can replace the keys in `{dir}`"), command)
        })
    }

    fn paths(&self, name: &Name) -> (Utf8PathBuf, Utf8PathBuf) {
        let private = self.dir.join(name.as_str());
        let public = private.with_extension("pub");
        (private, public)
    }

    /// Writes both halves or neither, and returns the key as it was written.
    fn write(&self, name: &Name, private: Option<&str>, public: &PublicKey) -> Result<Key> {
        let (private_path, public_path) = self.paths(name);
        let line = public.to_openssh().map_err(cannot_encode)? + "\n";
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        created.map_err(|error| self.failed("create", &error))?;
        let mut files = Vec::new();
        if let Some(text) = private {
            files.push(NewFile::create(private_path, 0o600, text.as_bytes())?);
        }
        files.push(NewFile::create(public_path, 0o644, line.as_bytes())?);
        self.sync()?;
        let key = self.get(name)?;
        files.into_iter().for_each(NewFile::keep);
        Ok(key)
    }

    /// Syncs the folder, so that created and deleted names survive a power failure.
    fn sync(&self) -> Result<()> {
        let sync = || File::open(&self.dir)?.sync_all();
        sync().map_err(|error| self.failed("sync", &error))
    }

    /// Returns the file names in the folder, except hidden ones.
    fn files(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| self.failed("read", &error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("read", &error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// Returns the metadata of a path, or `None` if it does not exist. A dangling link exists.
    fn metadata(&self, path: &Utf8Path) -> Result<Option<Metadata>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    /// Returns the path if it is a file, or `None` if it does not exist. A link, a folder or a pipe is an error.
    fn regular_file(&self, path: Utf8PathBuf) -> Result<Option<Utf8PathBuf>> {
        match self.metadata(&path)? {
            None => Ok(None),
            Some(metadata) if metadata.is_file() => Ok(Some(path)),
            Some(metadata) => {
                let kind = if metadata.is_symlink() { "a symbolic link" } else { "not a file" };
                Err(Error::conflict(format!("`{path}` is not a key: it is {kind}")).hint("Move it elsewhere"))
            }
        }
    }

    fn refuse_existing(&self, name: &Name) -> Result<()> {
        let (private, public) = self.paths(name);
        for path in [private, public] {
            if self.metadata(&path)?.is_some() {
                let message = format!("key `{name}` already exists: `{path}`");
                return Err(Error::new(Code::AlreadyExists, message).hint("Choose another name").hint(removal(name)));
            }
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        let dir = &self.dir;
        match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Error::conflict(format!("`{dir}` is not a folder"))
                .hint("Move it elsewhere")
                .hint("Choose another folder in the setting key-dir"),
            _ => Error::io(format!("{what} the folder `{dir}`"), error),
        }
    }

    fn missing(&self, name: &Name) -> Error {
        Error::not_found(format!("key `{name}` does not exist in `{}`", self.dir))
            .hint(Hint::call_any("List the keys", "ssh_key_list"))
            .hint(Hint::call("Generate it", "ssh_key_generate", [("name", name.as_str())]))
    }

    /// Returns the error for a file whose name is not the name of a key.
    fn misnamed(&self, file: &str) -> Error {
        let path = self.dir.join(file);
        let command = format!("vmprov key import NAME {}", shell_words::quote(path.as_str()));
        let path = path.as_str().escape_debug();
        Error::conflict(format!("`{path}` is not a vmprov key: its file name is not a valid key name"))
            .hint(Hint::run("Import it if it is a key", command))
            .hint("Move it elsewhere")
    }
}

fn read_public(path: &Utf8Path) -> Result<PublicKey> {
    match read_own(path)? {
        KeyFile::Public(key) => Ok(key),
        KeyFile::Private(..) => {
            Err(Error::conflict(format!("`{path}` contains a private key instead of a public one")))
        }
    }
}

fn read_private(path: &Utf8Path) -> Result<PublicKey> {
    match read_own(path)? {
        KeyFile::Private(_, key) => Ok(key),
        KeyFile::Public(_) => Err(Error::conflict(format!("`{path}` contains a public key instead of a private one"))),
    }
}

/// Parses a file in the folder. A bad file is a conflict here, not invalid input: the caller did not name it.
fn read_own(path: &Utf8Path) -> Result<KeyFile> {
    let content = secret_file::read_own(path, MAX_FILE_BYTES)?;
    key_file::parse(path.as_str(), &content).map_err(|error| Error { code: Code::Conflict, ..error })
}

fn removal(name: &Name) -> Hint {
    Hint::call("Delete it", "ssh_key_delete", [("name", name.as_str())])
}

fn cannot_encode(error: ssh_key::Error) -> Error {
    Error::internal("cannot encode a key in OpenSSH format").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_at_the_second_file_removes_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let store = KeyStore::new(dir);
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        fs::write(dir.join("k.pub"), "another file").unwrap();
        let error = store.write(&"k".parse().unwrap(), Some("private"), key.public_key()).unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists);
        assert!(!dir.join("k").exists());
        assert_eq!(fs::read(dir.join("k.pub")).unwrap(), b"another file");
    }
}
