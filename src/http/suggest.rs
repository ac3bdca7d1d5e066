//! Suggests a route for a path that matches none.

/// The least similarity of a path and a suggested route.
const MIN_SIMILARITY: f64 = 0.85;

/// Returns the template of the route that is most similar to a path.
pub(super) fn route(routes: impl Iterator<Item = &'static str>, path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/').to_ascii_lowercase();
    if path.is_empty() {
        return None;
    }
    let given = if path.starts_with("/api") { path } else { format!("/api{path}") };
    let similar = routes.map(|route| (strsim::jaro_winkler(&given, &filled(route, &given)), route));
    let similar = similar.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY);
    similar.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, route)| route)
}

/// Returns a template with its parameters replaced by the segments of a path. A template with another number of
/// segments stays unchanged.
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
    use super::{super::routes::paths, *};

    #[test]
    fn the_most_similar_route_is_suggested() {
        for (path, expected) in [
            ("/api/vm", "/api/vms"),
            ("/vms", "/api/vms"),
            ("/api/VMs/", "/api/vms"),
            ("/api/vms/web/starts", "/api/vms/{vm}/start"),
            ("/api/operation/7", "/api/operations/{id}"),
        ] {
            assert_eq!(route(paths(), path), Some(expected), "{path}");
        }
        for path in ["/", "/favicon.ico", "/api/quite/another/thing"] {
            assert_eq!(route(paths(), path), None, "{path}");
        }
    }
}
