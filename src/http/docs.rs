//! The OpenAPI document, and a documentation page that works without internet access.

use std::io::Read;

use axum::{
    Json,
    extract::Path,
    http::{HeaderMap, header},
    response::{IntoResponse, Redirect, Response},
};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::{openapi, problem::Problem};
use crate::error::Error;

/// The content security policy: the page may use its own scripts and send requests to this service only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

/// The name, the content type and the compressed content of a file of Swagger UI, which `build.rs` has compressed.
macro_rules! swagger_ui {
    ($name:literal, $content_type:literal) => {
        ($name, $content_type, include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")))
    };
}

/// The compressed files of the page.
const COMPRESSED: [(&str, &str, &[u8]); 7] = [
    swagger_ui!("favicon-16x16.png", "image/png"),
    swagger_ui!("favicon-32x32.png", "image/png"),
    swagger_ui!("index.css", "text/css"),
    swagger_ui!("index.html", "text/html"),
    swagger_ui!("swagger-ui-bundle.js", "text/javascript"),
    swagger_ui!("swagger-ui-standalone-preset.js", "text/javascript"),
    swagger_ui!("swagger-ui.css", "text/css"),
];

/// The script that configures the page.
const INITIALIZER: &str = include_str!("swagger-initializer.js");

/// Returns the document.
pub(super) async fn document() -> Json<&'static Value> {
    Json(openapi::document())
}

/// Redirects to the page.
pub(super) async fn page() -> Redirect {
    Redirect::permanent("/docs/")
}

/// Returns the page.
pub(super) async fn index(request: HeaderMap) -> Response {
    file("index.html", &request)
}

/// Returns a file of the page.
pub(super) async fn asset(Path(path): Path<String>, request: HeaderMap) -> Response {
    file(&path, &request)
}

fn file(path: &str, request: &HeaderMap) -> Response {
    let policy = (header::CONTENT_SECURITY_POLICY, POLICY);
    if path == "swagger-initializer.js" {
        return ([(header::CONTENT_TYPE, "text/javascript"), policy], INITIALIZER).into_response();
    }
    let Some(&(_, content_type, compressed)) = COMPRESSED.iter().find(|(name, ..)| *name == path) else {
        let error = Error::not_found(format!("documentation file `{}` does not exist", path.escape_debug()));
        return Problem::from(error.hint("Open the documentation at /docs/")).into_response();
    };
    let headers = [(header::CONTENT_TYPE, content_type), (header::VARY, "accept-encoding"), policy];
    if accepts_gzip(request) {
        return (headers, [(header::CONTENT_ENCODING, "gzip")], compressed).into_response();
    }
    let mut content = Vec::new();
    match GzDecoder::new(compressed).read_to_end(&mut content) {
        Ok(_) => (headers, content).into_response(),
        Err(error) => Problem::from(Error::internal("cannot show the documentation").because(error)).into_response(),
    }
}

/// Returns whether the client accepts content that is compressed with gzip (RFC 9110, section 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        matches!(name.trim(), "gzip" | "x-gzip" | "*") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn get(path: &str, accepted: &str) -> (HeaderMap, Vec<u8>) {
        let request = HeaderMap::from_iter([(header::ACCEPT_ENCODING, accepted.parse().unwrap())]);
        let response = file(path, &request);
        assert!(response.status().is_success(), "{path}: {}", response.status());
        let (head, body) = response.into_parts();
        (head.headers, to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    #[tokio::test]
    async fn the_page_and_every_file_that_it_names_exist() {
        let (headers, page) = get("index.html", "identity").await;
        assert_eq!(headers[header::CONTENT_TYPE], "text/html");
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
        let page = String::from_utf8(page).unwrap();
        let is_file = |name: &&str| [".js", ".css", ".png"].iter().any(|ending| name.ends_with(ending));
        let named: Vec<_> = page.split(['"', '/']).filter(is_file).collect();
        assert_eq!(named.len(), 7, "{named:?}");
        for name in named {
            assert!(!get(name, "gzip").await.1.is_empty(), "{name}");
        }
        let (_, script) = get("swagger-initializer.js", "").await;
        assert!(String::from_utf8(script).unwrap().contains("\"/openapi.json\""));
    }

    #[tokio::test]
    async fn content_is_compressed_only_for_a_client_that_accepts_it() {
        let (_, plain) = get("swagger-ui.css", "identity").await;
        for (accepted, is_compressed) in [
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", true),
            ("*", true),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000, identity", false),
            ("gzip;q=x", false),
        ] {
            let (headers, mut content) = get("swagger-ui.css", accepted).await;
            assert_eq!(headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip"), is_compressed);
            assert_eq!(headers[header::VARY], "accept-encoding");
            if is_compressed {
                let compressed = std::mem::take(&mut content);
                assert!(compressed.len() * 4 < plain.len(), "{}", compressed.len());
                GzDecoder::new(&compressed[..]).read_to_end(&mut content).unwrap();
            }
            assert!(content == plain, "{accepted}");
        }
    }
}
