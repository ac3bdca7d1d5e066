//! What the API is: as a document for programs, and as a page for people that needs nothing of the internet.

use std::sync::{Arc, LazyLock};

use axum::{
    Json,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde_json::Value;
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::{openapi, problem::Problem};
use crate::error::Error;

/// Where the document is.
const DOCUMENT: &str = "/openapi.json";

/// The page may use its own scripts and ask this service, and nobody else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

/// The document.
pub(super) async fn document() -> Json<&'static Value> {
    Json(openapi::document())
}

/// The way to the page.
pub(super) async fn page() -> Redirect {
    Redirect::permanent("/docs/")
}

/// The page itself.
pub(super) async fn index() -> Response {
    file("")
}

/// What belongs to the page.
pub(super) async fn asset(Path(path): Path<String>) -> Response {
    file(&path)
}

fn file(path: &str) -> Response {
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from(DOCUMENT).try_it_out_enabled(false).with_credentials(false)));
    match utoipa_swagger_ui::serve(path, CONFIG.clone()) {
        Ok(Some(SwaggerFile { bytes, content_type, .. })) => {
            let headers = [(header::CONTENT_TYPE, content_type.as_str()), (header::CONTENT_SECURITY_POLICY, POLICY)];
            (StatusCode::OK, headers, bytes.into_owned()).into_response()
        }
        Ok(None) => {
            let error = Error::not_found(format!("the documentation has no file `{}`", path.escape_debug()));
            Problem::from(error.hint("GET /docs/ shows it.")).into_response()
        }
        Err(error) => {
            Problem::from(Error::internal("the documentation cannot be shown").because(error)).into_response()
        }
    }
}
