//! `image list`, `image info`: what images there are, what is known of them, and who uses them.

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
    /// The name, path or URL that it came by.
    pub name: String,
    /// What distinguishes it from others of that name: the beginning of its SHA-256.
    pub id: String,
    /// Whether its name leads to it, and not to a newer one.
    pub current: bool,
    /// Every name, path and URL that leads to it.
    pub names: Vec<String>,
    /// How it came here.
    pub origin: Origin,
    /// When it came here (RFC 3339, UTC).
    pub created: String,
    /// The bytes that it occupies in the pool.
    pub size: u64,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// What speaks for its content.
    pub verification: Verification,
    /// The checksum that its publisher or the operator gave.
    pub checksum: Option<Checksum>,
    /// The fingerprint of the key that signed it.
    pub signed_by: Option<String>,
    /// The SHA-256 of the image as it was given.
    pub sha256: String,
    /// Where it was fetched from.
    pub url: Option<String>,
    /// When the publisher changed it, in the server's words.
    pub last_modified: Option<String>,
    /// The user that it is known to log in as.
    pub user: Option<String>,
    /// The processor architecture, where it is known.
    pub arch: Option<Arch>,
    /// The base volume, as `pool/volume`.
    pub volume: String,
    /// The VMs that stand on it.
    pub vms: Vec<String>,
    /// What else stands on it: snapshots, and volumes that no VM has.
    pub others: Vec<String>,
    /// The client that it was made for; null where the operator made it.
    pub owner: Option<String>,
    /// Who may use it.
    pub visibility: Visibility,
    /// The names among these that are private.
    #[serde(skip)]
    pub(super) private_names: Vec<String>,
    /// How many names lead to it, with those that the caller does not see and those of different owners that are alike.
    #[serde(skip)]
    pub(super) leading: usize,
}

impl Image {
    /// The base volume's name in its pool.
    pub(super) fn volume_name(&self) -> &str {
        self.volume.rsplit('/').next().unwrap_or(&self.volume)
    }
}

/// The images of the storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// They, by name.
    pub images: Vec<Image>,
}

/// Both kinds of companion.
pub(super) struct Companions {
    /// A base and its companion's name.
    pub(super) bases: Vec<Base>,
    /// What leads to bases, by the companions' names.
    pub(super) sources: Vec<(String, Option<Base>)>,
}

impl Companions {
    /// Reads them all.
    pub(super) fn read(host: &Host, pool: &Pool) -> Result<Self> {
        let volumes = host.virsh.volumes_like(&pool.name, "")?;
        let is_base = |name: &str| name.starts_with("base-") && name.ends_with(".json");
        let is_source = |name: &str| name.starts_with("source-") && name.ends_with(".json");
        let names: Vec<_> = volumes.iter().filter(|name| is_base(name) || is_source(name)).collect();
        let mut files = names.iter().map(|_| Scratch::memory(b"")).collect::<Result<Vec<_>>>()?;
        let wanted: Vec<_> =
            names.iter().zip(&files).map(|(name, file)| (name.as_str(), file.path().as_str())).collect();
        host.virsh.download_all(&pool.name, &wanted)?;
        let mut companions = Self { bases: Vec::new(), sources: Vec::new() };
        for (name, file) in names.into_iter().zip(&mut files) {
            let base = Base::read(&file.content()?);
            if is_source(name) {
                companions.sources.push((name.clone(), base));
            } else if let Some(base) =
                base.filter(|base| volumes.contains(&base.volume) && Base::companion_of(&base.volume) == *name)
            {
                companions.bases.push(base);
            }
        }
        Ok(companions)
    }

    /// The sources that lead to a base now.
    pub(super) fn leading_to(&self, volume: &str) -> impl Iterator<Item = (&String, &Base)> {
        let known = self.sources.iter().filter_map(|(name, base)| Some((name, base.as_ref()?)));
        known.filter(move |(_, base)| base.volume == volume)
    }
}

/// The pool, where there is one and it is started.
pub(super) fn active_pool(host: &Host) -> Result<Option<Pool>> {
    Ok(host.virsh.pool(&host.settings.pool)?.filter(|pool| pool.active))
}

/// The names of the images in the pool that are names: imported, or made of VMs.
pub(super) fn sources(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let Companions { bases, sources } = Companions::read(host, &pool)?;
    let leads_somewhere =
        |base: &Base| base.is_seen_by(&host.caller) && bases.iter().any(|known| known.volume == base.volume);
    Ok(sources.into_iter().filter_map(|(_, base)| base.filter(leads_somewhere)).map(|base| base.source).collect())
}

/// Lists the images in the pool.
pub fn list(host: &Host) -> Result<Images> {
    let Some(pool) = active_pool(host)? else { return Ok(Images { images: Vec::new() }) };
    let usage = Usage::look(host, &pool, false)?;
    read(host, &pool, &usage).map(|images| Images { images })
}

pub(super) fn read(host: &Host, pool: &Pool, usage: &Usage) -> Result<Vec<Image>> {
    let companions = Companions::read(host, pool)?;
    let mut images: Vec<_> =
        companions.bases.iter().filter_map(|base| image(pool, base, &companions, usage, &host.caller)).collect();
    if host.caller.prefix.is_some() {
        for image in &mut images {
            hide_users(image, &host.caller);
        }
    }
    images.sort_by(|a, b| (&a.name, !a.current, &b.created).cmp(&(&b.name, !b.current, &a.created)));
    Ok(images)
}

/// Puts together what is known of an image: of several sources that lead to it, the best proven one speaks for it. None
/// where it does not exist for the caller. What is known of it by others' private names is left out.
fn image(pool: &Pool, base: &Base, companions: &Companions, usage: &Usage, caller: &Caller) -> Option<Image> {
    let all: Vec<_> = companions.leading_to(&base.volume).map(|(_, source)| source).collect();
    let leading: Vec<_> = all.iter().copied().filter(|source| source.is_seen_by(caller)).collect();
    // What a name leads to is seen by its names alone; what was replaced by a newer one has none.
    let own = Some(base).filter(|base| base.is_seen_by(caller) && leading.is_empty() == all.is_empty());
    let best = leading.iter().copied().chain(own).max_by_key(|known| known.verification)?;
    let base = own.unwrap_or(best);
    let private = leading.iter().filter(|source| source.visibility == Visibility::Private);
    let of_volume = |volume: &&crate::tools::virsh::StoredVolume| volume.name == base.volume;
    let mut names: Vec<_> = leading.iter().map(|source| source.source.clone()).collect();
    names.sort();
    names.dedup();
    // A name says more than a URL or a path.
    let name = names.iter().find(|name| !name.contains('/')).or(names.first()).unwrap_or(&base.source).clone();
    // Of names that are alike, a limited caller's own comes first, and for the operator the shared one.
    let rank = |source: &&Base| (source.visibility == Visibility::Shared) != caller.is_limited;
    let first = leading.iter().copied().filter(|source| source.source == name).max_by_key(rank).unwrap_or(base);
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
        leading: all.len(),
        id: id(base).to_owned(),
        current: !names.is_empty(),
        origin: leading.iter().map(|source| source.origin).max().unwrap_or(base.origin),
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

/// Leaves out who is not there for the caller.
fn hide_users(image: &mut Image, caller: &Caller) {
    image.vms.retain(|vm| caller.sees(vm));
    // They are told in words, which may name anybody.
    image.others.clear();
}

/// What distinguishes a base from others.
pub(super) fn id(base: &Base) -> &str {
    base.sha256.get(..12).unwrap_or(&base.sha256)
}

/// Everything there is to know of an image.
pub fn info(host: &Host, reference: &str) -> Result<Image> {
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::look(host, &pool, false)?;
    find(host, &read(host, &pool, &usage)?, reference)
}

/// What is meant by a name, a path or a URL, as companions have it.
fn given(host: &Host, reference: &str) -> String {
    // A URL means itself; whether it may be fetched is not asked here.
    if ["http://", "https://"].iter().any(|scheme| reference.starts_with(scheme)) {
        return reference.to_owned();
    }
    // A file that has gone may still be what an image came from.
    ImageSource::parse(host, reference, None).map_or_else(|_| reference.to_owned(), |source| source.given().to_owned())
}

/// Whether a reference means this name of an image.
pub(super) fn means(host: &Host, reference: &str, name: &str) -> bool {
    given(host, reference) == name
}

/// The image that a name, a path, a URL, an id or a base volume means. What has been replaced is meant by its id alone.
pub(super) fn find(host: &Host, images: &[Image], reference: &str) -> Result<Image> {
    let known = given(host, reference);
    let mut by_name: Vec<_> =
        images.iter().enumerate().filter(|(_, image)| image.names.contains(&known)).map(|(at, _)| at).collect();
    if by_name.len() > 1 {
        // The caller's own name comes before a shared one, and for the operator a shared one before clients' own.
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
                error.hint(format!("Older ones of that name are there: {}.", old.join(", ")))
            })
        }
        (several @ [_, ..], _) | ([], several) => {
            let ids: Vec<_> = several.iter().map(|&at| images[at].sha256.get(..16).unwrap_or_default()).collect();
            Err(Error::invalid(format!("`{reference}` means several images"))
                .hint(format!("Give more of it: {}.", ids.join(", "))))
        }
    }
}
