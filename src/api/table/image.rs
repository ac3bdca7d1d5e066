//! Operations on images.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{NOTHING, Nothing};
use crate::{
    api::{
        Effect, Kind, Operation,
        Resource::{Disk, Images},
        Scope,
        builder::{change, read},
        tool::{Brief, tool},
    },
    ops::image::{self, ImageChange, NewImport, NewPull, PruneOptions, SearchOptions},
};

/// A request about an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
struct OfImage {
    /// Image, by name, path, URL or ID
    image: String,
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        read("image_search", "image search", "/api/catalogue")
            .about("Search the catalogue of published images")
            .tool(
                tool(
                    "Search for images",
                    "Searches the catalogue of published cloud images by name or title. vm_create accepts these names \
                     in image.",
                )
                .brief(Brief {
                    list: "images",
                    of: "Offer",
                    members: &["images", "verification", "firmware"],
                }),
            )
            .shell(&[("Find an image", "vmprov image search ubuntu")])
            .run(|host, options: SearchOptions| image::search(host, &options)),
        read("image_list", "image list", "/api/images")
            .about("List the images in the storage pool and the VMs that use them")
            .tool(tool("List images", "Lists the local images and the virtual machines that use them."))
            .run(|host, _: Nothing| image::list(host)),
        change("image_pull", "image pull", "POST", "/api/images")
            .about("Fetch an image, or update it")
            .tool(
                tool(
                    "Fetch an image",
                    "Fetches an image, or a newer version if its publisher has one. vm_create fetches a missing image \
                     itself.",
                )
                .open_world()
                .idempotent(),
            )
            .takes(&[Images, Disk])
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, new: NewPull| image::pull(host, &new)),
        change("image_import", "image import", "POST", "/api/images/import")
            .about("Import an image")
            .shell(&[("Import a local image", "vmprov image import ./disk.qcow2 golden")])
            .takes(&[Images, Disk])
            .creates(Kind::Image, "name")
            .scope(Scope::Admin)
            .example(json!({"file": "https://example.org/golden.qcow2", "name": "golden"}))
            .run(|host, new: NewImport| image::import(host, &new)),
        change("image_prune", "image prune", "POST", "/api/images/prune")
            .about("Remove unused fetched images and partial downloads and uploads")
            .shell(&[("Show what would be removed", "vmprov image prune --dry-run")])
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: PruneOptions| image::prune(host, options)),
        read("image_info", "image info", "/api/images/{image}")
            .about("Show details of an image")
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, of: OfImage| image::info(host, &of.image)),
        change("image_set", "image set", "PATCH", "/api/images/{image}")
            .about("Change the visibility of an image")
            .shell(&[("Share an image with every client", "vmprov image set golden --visibility shared")])
            .takes(NOTHING)
            .example(json!({"image": "golden", "visibility": "shared"}))
            .names(Kind::Image, "image")
            .run(|host, change: ImageChange| image::set(host, &change)),
        change("image_delete", "image delete", "DELETE", "/api/images/{image}")
            .about("Delete an unused image")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, of: OfImage| image::delete(host, &of.image)),
    ]
}
