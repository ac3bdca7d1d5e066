//! The OpenAPI document, and a documentation page that works without internet access.

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

/// The path of the document.
const DOCUMENT: &str = "/openapi.json";

/// The content security policy: the page may use its own scripts and send requests to this service only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

/// Returns the document.
pub(super) async fn document() -> Json<&'static Value> {
    Json(openapi::document())
}

/// Redirects to the page.
pub(super) async fn page() -> Redirect {
    Redirect::permanent("/docs/")
}

/// Returns the page.
pub(super) async fn index() -> Response {
    file("")
}

/// Returns a file of the page.
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
            let error = Error::not_found(format!("documentation file `{}` does not exist", path.escape_debug()));
            Problem::from(error.hint("Open the documentation at /docs/")).into_response()
        }
        Err(error) => Problem::from(Error::internal("cannot show the documentation").because(error)).into_response(),
    }
}
