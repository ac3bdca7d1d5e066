//! Validates a request as far as that is possible without libvirt.

use camino::Utf8Path;

use crate::{
    cloud_init::UserData,
    error::{Error, Result},
    model::{digest, key::Key, specification::Specification, vm::NewVm},
    ops::{Host, image::ImageSource, key, source_policy},
    store::local_file::LocalFile,
};

/// A valid request, with the files and keys that it names.
pub(super) struct Request {
    pub(super) image: Option<ImageSource>,
    pub(super) installer: Option<LocalFile>,
    pub(super) keys: Vec<Key>,
    pub(super) user_data: Option<UserData>,
    /// Whether the VM gets a seed.
    pub(super) seeded: bool,
}

impl Request {
    pub(super) fn check(host: &Host, new: &NewVm, warnings: &mut Vec<String>) -> Result<Self> {
        let user_data = new.user_data.as_ref().map(|data| UserData::parse(&data.0)).transpose()?;
        new.check()?;
        let image = new.given_image().map(|given| ImageSource::parse(host, given, None)).transpose()?;
        let installer = new.iso.as_deref().map(|given| installer(host, given)).transpose()?;
        let keys = new.ssh_keys.iter().map(|name| key::get(host, name)).collect::<Result<Vec<_>>>()?;
        let wants_seed = !keys.is_empty() || user_data.is_some() || new.user.is_some();
        let seeded = image.is_some() || installer.is_some() && wants_seed;
        if image.is_none() && installer.is_none() {
            host.warn(warnings, "no image given: the disk is blank and not bootable");
        }
        if image.is_some() && keys.is_empty() && user_data.is_none() {
            host.warn(warnings, "no SSH key given: login is not possible until a key is injected");
        }
        Ok(Self { image, installer, keys, user_data, seeded })
    }
}

impl Request {
    /// Returns the requested specification in its normal form, which is recorded and compared. It does not include how
    /// the image is fetched, the lifetime, or whether the VM is started now.
    pub(super) fn specification(&self, new: &NewVm) -> Specification {
        let mut ssh_keys: Vec<_> = self.keys.iter().map(|key| format!("{} {}", key.name, key.fingerprint)).collect();
        ssh_keys.sort();
        ssh_keys.dedup();
        Specification {
            image: self.image.as_ref().map(|image| image.given().to_owned()),
            checksum: new.checksum.as_ref().map(ToString::to_string),
            iso: self.installer.as_ref().map(|file| file.path().to_string()),
            memory_mib: new.memory.mib(),
            vcpus: new.vcpus,
            disk_bytes: new.disk_size.bytes(),
            network: new.network.clone(),
            ssh_keys,
            user: new.user.clone(),
            user_data: new.user_data.as_ref().map(|data| digest::of(&data.0)),
            autostart: new.autostart,
        }
    }
}

fn installer(host: &Host, given: &str) -> Result<LocalFile> {
    let failed = |error: std::io::Error| Error::io(format!("read the installer `{}`", given.escape_debug()), &error);
    let file = source_policy::open(host, Utf8Path::new(given), failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(Error::invalid(format!(
            "invalid installer `{}`: it must be a regular file that is not empty",
            file.path()
        )));
    }
    Ok(file)
}
