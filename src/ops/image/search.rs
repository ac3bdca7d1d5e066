//! `image search`: searching the catalogue.

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

/// Selects images of the catalogue
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SearchOptions {
    /// Part of a name or title [default: all images]
    pub term: Option<String>,
}

/// The matching images of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Offers)]
pub struct Found {
    /// The images, in the catalogue's order.
    pub images: Vec<Offer>,
}

/// An image of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The name, for use as `image` in requests.
    pub name: ImageName,
    /// Other names of the same image.
    pub aliases: Vec<ImageName>,
    /// The title.
    pub title: String,
    /// The publisher's files, by architecture.
    pub images: BTreeMap<Arch, OfferedImage>,
    /// How the content will be verified.
    pub verification: Verification,
    /// The default login user.
    pub user: String,
    /// The minimum disk size in bytes.
    pub min_disk: Option<u64>,
    /// The minimum memory in MiB.
    pub min_memory: Option<u64>,
    /// The firmware on x86_64. On aarch64 it is always UEFI.
    pub firmware: Firmware,
}

/// A publisher's files of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedImage {
    /// The URL of the image.
    pub url: String,
    /// The URL of the checksum file.
    pub checksum_url: Option<String>,
    /// The format of the checksum file.
    pub checksum_form: Option<Form>,
    /// The URL of the signature.
    pub signature_url: Option<String>,
    /// What the signature signs.
    pub signature_of: Option<Signs>,
    /// The fingerprints of the accepted signing keys.
    pub signed_by: Vec<String>,
}

/// Searches the catalogue by name, alias and title. Without a term, returns all images.
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
            // Invalid keys would have been refused when the catalogue was read.
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
