//! `image search`: the catalogue.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::catalogue;
use crate::{
    catalogue::{Catalogue, Entry, Firmware, Form, Signs, signature},
    error::Result,
    model::{
        image::{Arch, ImageName, Verification},
        size::{DiskSize, Memory},
    },
    ops::Host,
};

/// What to look for in the catalogue
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SearchOptions {
    /// Part of a name or title; without it, all of them
    pub term: Option<String>,
}

/// The images of the catalogue that were looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Offers)]
pub struct Found {
    /// They, in the catalogue's order.
    pub images: Vec<Offer>,
}

/// An image of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// What `--image` takes.
    pub name: ImageName,
    /// Names that lead to the same.
    pub aliases: Vec<ImageName>,
    /// What it is.
    pub title: String,
    /// Where its publisher has it, for each architecture.
    pub images: BTreeMap<Arch, OfferedImage>,
    /// What will speak for its content.
    pub verification: Verification,
    /// The user that it logs in as.
    pub user: String,
    /// The least disk that it boots from, in bytes.
    pub min_disk: Option<u64>,
    /// The least memory that it boots in, in MiB.
    pub min_memory: Option<u64>,
    /// What boots it on x86_64; on aarch64 it is UEFI.
    pub firmware: Firmware,
}

/// Where a publisher has an image, and what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedImage {
    /// The image.
    pub url: String,
    /// The file of checksums.
    pub checksum_url: Option<String>,
    /// How it is written.
    pub checksum_form: Option<Form>,
    /// The signature.
    pub signature_url: Option<String>,
    /// What is signed.
    pub signature_of: Option<Signs>,
    /// The fingerprints of the keys of which one must have made it.
    pub signed_by: Vec<String>,
}

/// Looks for images by name, alias or title; all of them where `term` is empty.
pub fn search(host: &Host, options: &SearchOptions) -> Result<Found> {
    let term = options.term.as_deref().unwrap_or_default();
    let catalogue = catalogue(host)?;
    Ok(Found { images: catalogue.search(term).map(|entry| offer(&catalogue, entry)).collect() })
}

fn offer(catalogue: &Catalogue, entry: &Entry) -> Offer {
    let image = |arch| {
        let image = entry.image(arch)?;
        let signed = image.signature.as_ref().map(|(_, file)| *file);
        let keys = signed.map(|file| catalogue.keys(&file.keys)).unwrap_or_default();
        let offered = OfferedImage {
            checksum_url: image.checksum.as_ref().map(|(url, _)| url.clone()),
            checksum_form: image.checksum.as_ref().map(|(_, form)| *form),
            signature_url: image.signature.as_ref().map(|(url, _)| url.clone()),
            signature_of: signed.map(|file| file.signs),
            // They were read when the catalogue was.
            signed_by: keys.iter().flat_map(|key| signature::fingerprints(key).unwrap_or_default()).collect(),
            url: image.url,
        };
        Some((arch, offered))
    };
    Offer {
        name: entry.name.clone(),
        aliases: entry.aliases.clone(),
        title: entry.title.clone(),
        images: entry.archs().filter_map(image).collect(),
        verification: entry.verification(),
        user: entry.user.clone(),
        min_disk: entry.min_disk.map(DiskSize::bytes),
        min_memory: entry.min_memory.map(Memory::mib),
        firmware: entry.firmware,
    }
}
