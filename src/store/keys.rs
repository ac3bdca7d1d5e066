//! The keys that vmprov keeps: NAME (private, 0600) and NAME.pub in one folder (0700), as `ssh -i` takes them.
//!
//! Nothing is ever overwritten, and no link in the folder is followed. The private file is written first: a kill leaves
//! a whole key, whose public half is then read from the private one, or a file that [`KeyStore::list`] names and
//! [`KeyStore::delete`] removes. Private material leaves only as a path.

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
    error::{Code, Error, Result},
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

/// No key file comes near this: RSA with 16384 bits takes 13 KiB.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// Group and others: with any permission for them, ssh refuses a private key.
const OTHERS: u32 = 0o077;

/// Write permission for group and others.
const OTHERS_WRITE: u32 = 0o022;

/// With it on a folder, only a file's owner can replace the file.
const STICKY: u32 = 0o1000;

/// The folder of the keys.
#[derive(Debug, Clone)]
pub struct KeyStore {
    dir: Utf8PathBuf,
    effort: Effort,
    cancel: Cancel,
}

/// What the folder holds.
#[derive(Debug)]
pub struct Listing {
    /// The keys, sorted by name.
    pub keys: Vec<Key>,
    /// What is there and cannot be used: one broken file hides no key.
    pub unusable: Vec<Error>,
}

impl KeyStore {
    /// Keeps the keys in `dir`, an absolute path, which is made when the first key is.
    pub fn new(dir: &Utf8Path) -> Self {
        Self { dir: dir.to_owned(), effort: Effort::default(), cancel: Cancel::default() }
    }

    /// The same store, in which this cancels the generation of a key.
    #[must_use]
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }

    /// The same store, in which the generation of a key may take so much of the machine.
    #[must_use]
    pub fn with_effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }

    /// What the generation of a key may take of the machine.
    pub const fn effort(&self) -> Effort {
        self.effort
    }

    /// Generates a key pair.
    pub fn generate(&self, new: &NewKey) -> Result<Key> {
        new.check()?;
        // Said before the work; what holds is that the files are created exclusively.
        self.refuse_taken(&new.name)?;
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

    /// Takes over an existing key: a private one, encrypted or not, or only a public one.
    pub fn import(&self, name: &Name, file: &Utf8Path) -> Result<Key> {
        let content = secret_file::read(file, MAX_FILE_BYTES)?;
        let (mut public, private) = match key_file::parse(file.as_str(), &content)? {
            KeyFile::Private(private, public) => (public, Some(private)),
            KeyFile::Public(public) => (public, None),
        };
        self.refuse_taken(name)?;
        // The comment of an encrypted key is encrypted with it.
        if public.comment().is_empty() {
            public.set_comment(name.as_str());
        }
        self.write(name, private.as_deref().map(String::as_str), &public)
    }

    /// Lists the keys, and whatever else is in the folder.
    pub fn list(&self) -> Result<Listing> {
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for file in self.files()? {
            match file.strip_suffix(".pub").unwrap_or(&file).parse::<Name>() {
                Ok(name) => drop(names.insert(name)),
                Err(_) => unusable.push(self.stranger(&file)),
            }
        }
        for name in &names {
            match self.get(name) {
                Ok(key) => keys.push(key),
                // Deleted since the folder was read.
                Err(error) if error.code == Code::NotFound => {}
                Err(error) => unusable.push(error),
            }
        }
        Ok(Listing { keys, unusable })
    }

    /// Reports one key. The private file is opened only if the public one is missing.
    pub fn get(&self, name: &Name) -> Result<Key> {
        let (private, public) = self.paths(name);
        let private_key_path = self.regular_file(private)?;
        let public_key_path = self.regular_file(public)?;
        let key = match (&public_key_path, &private_key_path) {
            (None, None) => return Err(self.missing(name)),
            (None, Some(private)) => read_private(private).map_err(|e| e.hint(removal(name)))?,
            (Some(public), None) => read_public(public).map_err(|e| e.hint(removal(name)))?,
            (Some(public), Some(private)) => read_public(public)
                .map_err(|e| e.hint(format!("Without it the public key is read from `{private}`.")))?,
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

    /// Deletes both halves of a key, or what is left of them.
    pub fn delete(&self, name: &Name) -> Result<()> {
        let (private, public) = self.paths(name);
        // The secret goes first: a kill in between leaves a public key, which can be deleted again.
        if !(secret_file::remove(&private)? | secret_file::remove(&public)?) {
            return Err(self.missing(name));
        }
        self.sync()
    }

    /// The file to give to `ssh -i`.
    pub fn private_key_path(&self, name: &Name) -> Result<Utf8PathBuf> {
        let Some(path) = self.get(name)?.private_key_path else {
            return Err(Error::conflict(format!("of the key `{name}` only the public half is here"))
                .hint("Log in with ssh where the private half is, or name another key."));
        };
        let metadata = self.metadata(&path)?.ok_or_else(|| self.missing(name))?;
        if metadata.permissions().mode() & OTHERS != 0 {
            let message = format!("ssh does not take the key `{name}`: others may use its file");
            let command = format!("chmod 600 {}", shell_words::quote(path.as_str()));
            return Err(Error::new(Code::Denied, message).hint(format!("Run `{command}`.")));
        }
        Ok(path)
    }

    /// What an operator should know about the folder. No error: ssh does not mind either, and the folders that
    /// containers are given are often open.
    pub fn warning(&self) -> Option<String> {
        self.exposure().map(|(what, command)| format!("{what}: run `{command}`"))
    }

    /// The same as what is wrong, and the command that mends it.
    pub fn exposure(&self) -> Option<(String, String)> {
        let dir = &self.dir;
        let mode = fs::metadata(dir).ok()?.permissions().mode();
        (mode & OTHERS_WRITE != 0 && mode & STICKY == 0).then(|| {
            let command = format!("chmod go-w {}", shell_words::quote(dir.as_str()));
            (format!("others may replace the keys in `{dir}`"), command)
        })
    }

    fn paths(&self, name: &Name) -> (Utf8PathBuf, Utf8PathBuf) {
        let private = self.dir.join(name.as_str());
        let public = private.with_extension("pub");
        (private, public)
    }

    /// Writes both halves, or neither, and reports what is there now.
    fn write(&self, name: &Name, private: Option<&str>, public: &PublicKey) -> Result<Key> {
        let (private_path, public_path) = self.paths(name);
        let line = public.to_openssh().map_err(cannot_encode)? + "\n";
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|error| self.failed("make", &error))?;
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

    /// Makes the names of new and deleted files last through a power failure.
    fn sync(&self) -> Result<()> {
        let sync = || File::open(&self.dir)?.sync_all();
        sync().map_err(|error| self.failed("sync", &error))
    }

    /// The names in the folder, except hidden ones.
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

    /// What has this path, be it a link to nowhere.
    fn metadata(&self, path: &Utf8Path) -> Result<Option<Metadata>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look into", &error)),
        }
    }

    /// The path, if there is a file; a link, a folder or a pipe is an error.
    fn regular_file(&self, path: Utf8PathBuf) -> Result<Option<Utf8PathBuf>> {
        match self.metadata(&path)? {
            None => Ok(None),
            Some(metadata) if metadata.is_file() => Ok(Some(path)),
            Some(metadata) => {
                let what = if metadata.is_symlink() { "a symbolic link" } else { "not a file" };
                Err(Error::conflict(format!("`{path}` cannot be a key: it is {what}")).hint("Move it elsewhere."))
            }
        }
    }

    fn refuse_taken(&self, name: &Name) -> Result<()> {
        let (private, public) = self.paths(name);
        for path in [private, public] {
            if self.metadata(&path)?.is_some() {
                let message = format!("there is a key `{name}` already: `{path}`");
                return Err(
                    Error::new(Code::AlreadyExists, message).hint(format!("Take another name. {}", removal(name)))
                );
            }
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        let dir = &self.dir;
        match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Error::conflict(format!("`{dir}` is not a folder"))
                .hint("Name another with `--key-dir`, or move away what is there."),
            _ => Error::io(format!("{what} the folder `{dir}`"), error),
        }
    }

    fn missing(&self, name: &Name) -> Error {
        Error::not_found(format!("there is no key `{name}` in `{}`", self.dir))
            .hint("`vmprov key list` shows the keys, `vmprov key generate` makes one.")
    }

    fn stranger(&self, file: &str) -> Error {
        let path = self.dir.join(file);
        let path = path.as_str().escape_debug();
        Error::conflict(format!("`{path}` is not a key of vmprov: its name cannot be one"))
            .hint("Take it over with `vmprov key import NAME FILE`, or move it elsewhere.")
    }
}

fn read_public(path: &Utf8Path) -> Result<PublicKey> {
    match read_own(path)? {
        KeyFile::Public(key) => Ok(key),
        KeyFile::Private(..) => Err(Error::conflict(format!("`{path}` holds a private key"))),
    }
}

fn read_private(path: &Utf8Path) -> Result<PublicKey> {
    match read_own(path)? {
        KeyFile::Private(_, key) => Ok(key),
        KeyFile::Public(_) => Err(Error::conflict(format!("`{path}` holds only a public key"))),
    }
}

/// What lies in our folder and cannot be used is a state to be mended, not something that was typed wrong.
fn read_own(path: &Utf8Path) -> Result<KeyFile> {
    let content = secret_file::read_own(path, MAX_FILE_BYTES)?;
    key_file::parse(path.as_str(), &content).map_err(|error| Error { code: Code::Conflict, ..error })
}

fn removal(name: &Name) -> String {
    format!("`vmprov key delete {name}` removes it.")
}

fn cannot_encode(error: ssh_key::Error) -> Error {
    Error::internal("cannot write a key in the format of OpenSSH").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_between_the_two_files_leaves_neither() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let store = KeyStore::new(dir);
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        fs::write(dir.join("k.pub"), "somebody else's").unwrap();
        let error = store.write(&"k".parse().unwrap(), Some("private"), key.public_key()).unwrap_err();
        assert_eq!(error.code, Code::AlreadyExists);
        assert!(!dir.join("k").exists());
        assert_eq!(fs::read(dir.join("k.pub")).unwrap(), b"somebody else's");
    }
}
