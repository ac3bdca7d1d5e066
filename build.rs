//! Compresses the files of Swagger UI that `src/http/docs.rs` embeds.

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, Cursor},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

/// The files of the page. `swagger-initializer.js`, which configures it, is vmprov's own.
const FILES: [&str; 7] = [
    "favicon-16x16.png",
    "favicon-32x32.png",
    "index.css",
    "index.html",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-ui.css",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let path = entry.name()?.into_owned();
        let Some(name) = FILES.iter().find(|name| path.ends_with(&format!("/dist/{name}"))) else { continue };
        let mut file = GzEncoder::new(File::create(Path::new(&out).join(format!("{name}.gz")))?, Compression::best());
        io::copy(&mut entry, &mut file)?;
        file.finish()?;
    }
    Ok(())
}
