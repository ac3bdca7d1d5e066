//! `image list`, `image info`: the images in the storage pool, and their users.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Base, ImageSource, unknown_image, usage::Usage};
use crate::{
    error::{Error, Result},
    model::image::{Arch, Checksum, Origin, Verification, Visibility},
    ops::{Caller, Host, chains::Dependent},
    tools::{scratch::Scratch, virsh::Pool},
};

/// An image in the storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The name, path or URL.
    pub name: String,
    /// The beginning of its SHA-256, which distinguishes it from other images of that name.
    pub id: String,
    /// Whether it is the newest image of its name.
    pub current: bool,
    /// Every name, path and URL of the image.
    pub names: Vec<String>,
    /// How the image was added.
    pub origin: Origin,
    /// When the image was added (RFC 3339, UTC).
    pub created: String,
    /// The space that it occupies in the pool, in bytes.
    pub size: u64,
    /// The virtual disk size in bytes.
    pub virtual_size: u64,
    /// How the content was verified.
    pub verification: Verification,
    /// The checksum from the publisher or from the request.
    pub checksum: Option<Checksum>,
    /// The fingerprint of the key that signed it.
    pub signed_by: Option<String>,
    /// The SHA-256 of the original image.
    pub sha256: String,
    /// The URL that it was fetched from.
    pub url: Option<String>,
    /// The server's `Last-Modified` header.
    pub last_modified: Option<String>,
    /// The default login user, if it is known.
    pub user: Option<String>,
    /// The processor architecture, if it is known.
    pub arch: Option<Arch>,
    /// The base volume, as `pool/volume`.
    pub volume: String,
    /// The VMs that use the image.
    pub vms: Vec<String>,
    /// Other users of the image: snapshots, and volumes that belong to no VM.
    pub others: Vec<String>,
    /// The client that owns the image; null for the operator.
    pub owner: Option<String>,
    /// Who may use the image.
    pub visibility: Visibility,
    /// The names that are private.
    #[serde(skip)]
    pub(super) private_names: Vec<String>,
    /// The number of source manifests that lead to it, including those that the caller may not see.
    #[serde(skip)]
    pub(super) source_count: usize,
}

impl Image {
    /// Returns the base volume's name in its pool.
    pub(super) fn volume_name(&self) -> &str {
        self.volume.rsplit('/').next().unwrap_or(&self.volume)
    }
}

/// The images of the storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// The images, sorted by name.
    pub images: Vec<Image>,
}

/// The manifests of a pool, of both kinds.
pub(super) struct Manifests {
    /// The base manifests.
    pub(super) bases: Vec<Base>,
    /// The source manifests, each with its volume's name; none if it is invalid.
    pub(super) sources: Vec<(String, Option<Base>)>,
}

impl Manifests {
    /// Reads all manifests of a pool.
    pub(super) fn read(host: &Host, pool: &Pool) -> Result<Self> {
        let volumes = host.virsh.volumes_like(&pool.name, "")?;
        let is_base = |name: &str| name.starts_with("base-") && name.ends_with(".json");
        let is_source = |name: &str| name.starts_with("source-") && name.ends_with(".json");
        let names: Vec<_> = volumes.iter().filter(|name| is_base(name) || is_source(name)).collect();
        let mut files = names.iter().map(|_| Scratch::memory(b"")).collect::<Result<Vec<_>>>()?;
        let wanted: Vec<_> =
            names.iter().zip(&files).map(|(name, file)| (name.as_str(), file.path().as_str())).collect();
        host.virsh.download_all(&pool.name, &wanted)?;
        let mut manifests = Self { bases: Vec::new(), sources: Vec::new() };
        for (name, file) in names.into_iter().zip(&mut files) {
            let base = Base::read(&file.content()?);
            if is_source(name) {
                manifests.sources.push((name.clone(), base));
            } else if let Some(base) =
                base.filter(|base| volumes.contains(&base.volume) && Base::manifest_of(&base.volume) == *name)
            {
                manifests.bases.push(base);
            }
        }
        Ok(manifests)
    }

    /// Returns the source manifests that lead to a base volume.
    pub(super) fn leading_to(&self, volume: &str) -> impl Iterator<Item = (&String, &Base)> {
        let known = self.sources.iter().filter_map(|(name, base)| Some((name, base.as_ref()?)));
        known.filter(move |(_, base)| base.volume == volume)
    }
}

/// Returns the pool, if it exists and is active.
pub(super) fn active_pool(host: &Host) -> Result<Option<Pool>> {
    Ok(host.virsh.pool(&host.settings.pool)?.filter(|pool| pool.active))
}

/// Returns the name, path or URL of each image in the pool that the caller may see.
pub(super) fn sources(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let Manifests { bases, sources } = Manifests::read(host, &pool)?;
    let is_usable =
        |base: &Base| base.is_seen_by(&host.caller) && bases.iter().any(|known| known.volume == base.volume);
    Ok(sources.into_iter().filter_map(|(_, base)| base.filter(is_usable)).map(|base| base.source).collect())
}

/// Lists the images in the pool.
pub fn list(host: &Host) -> Result<Images> {
    let Some(pool) = active_pool(host)? else { return Ok(Images { images: Vec::new() }) };
    let usage = Usage::read(host, &pool, false)?;
    read(host, &pool, &usage).map(|images| Images { images })
}

pub(super) fn read(host: &Host, pool: &Pool, usage: &Usage) -> Result<Vec<Image>> {
    let manifests = Manifests::read(host, pool)?;
    let mut images: Vec<_> =
        manifests.bases.iter().filter_map(|base| image(pool, base, &manifests, usage, &host.caller)).collect();
    if host.caller.prefix.is_some() {
        for image in &mut images {
            hide_users(image, &host.caller);
        }
    }
    images.sort_by(|a, b| (&a.name, !a.current, &b.created).cmp(&(&b.name, !b.current, &a.created)));
    Ok(images)
}

/// Returns the report of an image; none if the caller may not see it. Of several sources, the best verified one counts.
/// Details from other clients' private names are left out.
fn image(pool: &Pool, base: &Base, manifests: &Manifests, usage: &Usage, caller: &Caller) -> Option<Image> {
    let all: Vec<_> = manifests.leading_to(&base.volume).map(|(_, source)| source).collect();
    let visible: Vec<_> = all.iter().copied().filter(|source| source.is_seen_by(caller)).collect();
    // An image with names is visible only through its names. An image that was replaced by a newer one has none.
    let own = Some(base).filter(|base| base.is_seen_by(caller) && visible.is_empty() == all.is_empty());
    let best = visible.iter().copied().chain(own).max_by_key(|known| known.verification)?;
    let base = own.unwrap_or(best);
    let private = visible.iter().filter(|source| source.visibility == Visibility::Private);
    let of_volume = |volume: &&crate::tools::virsh::StoredVolume| volume.name == base.volume;
    let mut names: Vec<_> = visible.iter().map(|source| source.source.clone()).collect();
    names.sort();
    names.dedup();
    // A name is preferred to a URL or a path.
    let name = names.iter().find(|name| !name.contains('/')).or(names.first()).unwrap_or(&base.source).clone();
    // Of equal names, a limited caller's own takes precedence, and for the operator the shared one.
    let rank = |source: &&Base| (source.visibility == Visibility::Shared) != caller.is_limited;
    let first = visible.iter().copied().filter(|source| source.source == name).max_by_key(rank).unwrap_or(base);
    let (mut vms, mut others) = (Vec::new(), Vec::new());
    for user in usage.of(&base.volume) {
        match user {
            Dependent::Vm(name) => vms.push(name.clone()),
            other => others.push(other.to_string()),
        }
    }
    Some(Image {
        owner: first.owner.clone(),
        visibility: first.visibility,
        private_names: private.map(|source| source.source.clone()).collect(),
        source_count: all.len(),
        id: id(base).to_owned(),
        current: !names.is_empty(),
        origin: visible.iter().map(|source| source.origin).max().unwrap_or(base.origin),
        created: base.created.clone(),
        size: usage.volumes.iter().find(of_volume).map(|volume| volume.allocation).unwrap_or_default(),
        virtual_size: base.virtual_size,
        verification: best.verification,
        checksum: best.checksums.first().cloned(),
        signed_by: best.signed_by.clone(),
        sha256: base.sha256.clone(),
        url: best.url.clone(),
        last_modified: best.last_modified.clone(),
        user: best.user.clone().or_else(|| base.user.clone()),
        arch: best.arch,
        volume: format!("{}/{}", pool.name, base.volume),
        name,
        names,
        vms,
        others,
    })
}

/// Removes the users that the caller may not see.
fn hide_users(image: &mut Image, caller: &Caller) {
    image.vms.retain(|vm| caller.sees(vm));
    // These texts may contain the names of other clients' VMs.
    image.others.clear();
}

/// Returns the short ID of a base.
pub(super) fn id(base: &Base) -> &str {
    base.sha256.get(..12).unwrap_or(&base.sha256)
}

/// Returns every detail of an image.
pub fn info(host: &Host, reference: &str) -> Result<Image> {
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::read(host, &pool, false)?;
    find(host, &read(host, &pool, &usage)?, reference)
}

/// Returns the form that a name, a path or a URL has in manifests.
fn given(host: &Host, reference: &str) -> String {
    // A URL is used as it is. Whether it may be fetched does not matter here.
    if ["http://", "https://"].iter().any(|scheme| reference.starts_with(scheme)) {
        return reference.to_owned();
    }
    // The file of an image may no longer exist.
    ImageSource::parse(host, reference, None).map_or_else(|_| reference.to_owned(), |source| source.given().to_owned())
}

/// Returns whether a reference resolves to this name of an image.
pub(super) fn means(host: &Host, reference: &str, name: &str) -> bool {
    given(host, reference) == name
}

/// Finds an image by its name, path, URL, ID or base volume. An image that was replaced is found only by its ID or
/// volume.
pub(super) fn find(host: &Host, images: &[Image], reference: &str) -> Result<Image> {
    let known = given(host, reference);
    let mut by_name: Vec<_> =
        images.iter().enumerate().filter(|(_, image)| image.names.contains(&known)).map(|(at, _)| at).collect();
    if by_name.len() > 1 {
        // The caller's private name takes precedence over a shared one, and for the operator the shared one.
        let wanted = host.caller.is_limited;
        by_name.retain(|&at| images[at].private_names.contains(&known) == wanted);
    }
    let is_id = |image: &Image| {
        reference.len() >= 4 && image.sha256.starts_with(reference)
            || [image.volume.as_str(), image.volume_name()].contains(&reference)
    };
    let by_id: Vec<_> = images.iter().enumerate().filter(|(_, image)| is_id(image)).map(|(at, _)| at).collect();
    match (&by_name[..], &by_id[..]) {
        (&[at], _) | ([], &[at]) => Ok(images[at].clone()),
        ([], []) => {
            let old: Vec<_> = images.iter().filter(|image| image.name == known).map(|image| &image.id[..]).collect();
            let error = unknown_image(host, reference)?;
            Err(if old.is_empty() {
                error
            } else {
                error.hint(format!("Use the ID of an older image of that name: {}", old.join(", ")))
            })
        }
        (several @ [_, ..], _) | ([], several) => {
            let ids: Vec<_> = several.iter().map(|&at| images[at].sha256.get(..16).unwrap_or_default()).collect();
            Err(Error::invalid(format!("ambiguous image `{reference}`"))
                .hint(format!("Use a longer ID: {}", ids.join(", "))))
        }
    }
}
