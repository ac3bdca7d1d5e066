//! The route that somebody may have meant.

use super::routes;

/// How alike two paths are at least, so that one is proposed for the other.
const ALIKE: f64 = 0.85;

/// The route that is most like a path, as its template.
pub(super) fn route(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/').to_ascii_lowercase();
    if path.is_empty() {
        return None;
    }
    let given = if path.starts_with("/api") { path } else { format!("/api{path}") };
    let alike = routes::paths().map(|route| (strsim::jaro_winkler(&given, &filled(route, &given)), route));
    let alike = alike.filter(|(alike, _)| *alike >= ALIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, route)| route)
}

/// A template with the names of a path where it has places for them; one of another length stays as it is.
fn filled(route: &str, path: &str) -> String {
    if route.split('/').count() != path.split('/').count() {
        return route.to_owned();
    }
    let parts = route.split('/').zip(path.split('/'));
    let parts: Vec<_> = parts.map(|(part, name)| if part.starts_with('{') { name } else { part }).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_that_was_meant_is_found() {
        for (path, meant) in [
            ("/api/vm", "/api/vms"),
            ("/vms", "/api/vms"),
            ("/api/VMs/", "/api/vms"),
            ("/api/vms/web/starts", "/api/vms/{vm}/start"),
            ("/api/operation/7", "/api/operations/{id}"),
        ] {
            assert_eq!(route(path), Some(meant), "{path}");
        }
        for path in ["/", "/favicon.ico", "/api/quite/another/thing"] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
