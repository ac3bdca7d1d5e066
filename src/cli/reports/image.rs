//! The human-readable reports on images.

use super::{Results, join, pairs, table};
use crate::{
    cli::output::Show,
    model::size::human,
    ops::image::{DeletedImage, Exported, Image, Images, Offer, Offers, Pruned, PrunedImage, Pulled},
};

impl Show for Offers {
    fn table(&self) -> String {
        let row = |offer: &Offer| {
            let minimum = |bytes: Option<u64>| bytes.map(human).unwrap_or_default();
            [
                offer.name.to_string(),
                join(&offer.aliases),
                offer.title.clone(),
                offer.images.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                offer.verification.to_string(),
                offer.user.clone(),
                minimum(offer.min_disk),
                minimum(offer.min_memory.map(|mib| mib << 20)),
            ]
        };
        let header = ["NAME", "ALIASES", "TITLE", "ARCH", "VERIFIED BY", "USER", "DISK", "MEMORY"];
        table(&header, self.images.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        self.images.iter().map(|offer| offer.name.to_string()).collect()
    }
}

impl Show for Images {
    fn table(&self) -> String {
        let row = |image: &Image| {
            let replaced = if image.current { "" } else { " (replaced)" };
            [
                format!("{}{replaced}", image.name),
                image.id.clone(),
                human(image.size),
                image.created.get(..10).unwrap_or_default().to_owned(),
                image.verification.to_string(),
                [&image.vms[..], &image.others].concat().join(", "),
            ]
        };
        table(&["NAME", "ID", "SIZE", "DATE", "VERIFIED BY", "USED BY"], self.images.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        // A replaced image has lost its name, so its ID stands for it.
        let name = |image: &Image| if image.current { image.name.clone() } else { image.id.clone() };
        self.images.iter().map(name).collect()
    }
}

impl Show for Image {
    fn table(&self) -> String {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let other_names: Vec<_> = self.names.iter().filter(|name| **name != self.name).cloned().collect();
        pairs(&[
            ("name", self.name.clone()),
            ("other names", other_names.join(", ")),
            ("replaced", if self.current { String::new() } else { "by a newer one".to_owned() }),
            ("id", self.id.clone()),
            ("verified by", self.verification.to_string()),
            ("checksum", self.checksum.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("signed by", or_empty(&self.signed_by)),
            ("sha256", self.sha256.clone()),
            ("origin", self.origin.to_string()),
            ("owner", or_empty(&self.owner)),
            ("visibility", self.visibility.to_string()),
            ("url", or_empty(&self.url)),
            ("last modified", or_empty(&self.last_modified)),
            ("added", self.created.clone()),
            ("size", human(self.size)),
            ("virtual size", human(self.virtual_size)),
            ("arch", self.arch.map(|arch| arch.to_string()).unwrap_or_default()),
            ("user", or_empty(&self.user)),
            ("volume", self.volume.clone()),
            ("used by", [&self.vms[..], &self.others].concat().join(", ")),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Show for Pulled {
    fn table(&self) -> String {
        let image = &self.image;
        let replaced = self.replaced.as_ref().map(|replaced| format!("; replaces {replaced}")).unwrap_or_default();
        let (status, verification) = (self.status, image.verification);
        format!("{}: {status} ({}, verified by {verification}){replaced}", image.name, image.id)
    }

    fn names(&self) -> Vec<String> {
        vec![self.image.name.clone()]
    }
}

impl Show for Exported {
    fn table(&self) -> String {
        pairs(&[
            ("image", self.image.clone()),
            ("file", self.file.to_string()),
            ("size", human(self.size)),
            ("sha256", self.sha256.clone()),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.to_string()]
    }
}

impl Show for Results<DeletedImage> {
    fn table(&self) -> String {
        let line = |report: &DeletedImage| {
            format!("{}: {} ({}, {})", report.image, report.status, report.id, human(report.size))
        };
        self.results.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.results.iter().map(|report| report.image.clone()).collect()
    }
}

impl Show for Pruned {
    fn table(&self) -> String {
        let done = if self.dry_run { "would remove" } else { "removed" };
        let image = |image: &PrunedImage| format!("{done} {} ({}, {})", image.image, image.id, human(image.size));
        let mut lines: Vec<_> = self.images.iter().map(image).collect();
        lines.extend(self.volumes.iter().map(|volume| format!("{done} the volume {volume}")));
        lines.extend(self.downloads.iter().map(|file| format!("{done} the unfinished download {file}")));
        lines.extend(
            self.kept.iter().map(|image| format!("kept {image}: it cannot be fetched again (--all removes it)")),
        );
        if lines.is_empty() {
            return "nothing to remove".to_owned();
        }
        if self.freed > 0 {
            lines.push(format!("{} {}", if self.dry_run { "would free" } else { "freed" }, human(self.freed)));
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.images.iter().map(|image| image.image.clone()).collect()
    }
}
