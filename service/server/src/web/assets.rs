//! The page's own files, which are in the program.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::answers;

/// A file of the page.
struct Asset {
    name: &'static str,
    content: &'static str,
    tag: String,
}

const HTML: &str = "text/html; charset=utf-8";

/// Every file; all are text.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    macro_rules! assets {
        ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("assets/", $name)))),*] };
    }
    let all = assets![
        "index.html",
        "icon.svg",
        "style.css",
        "main.js",
        "dom.js",
        "format.js",
        "answers.js",
        "benchmark.js",
        "api.js",
        "events.js",
        "chart.js",
        "list.js",
        "job.js",
        "standing.js",
        "state.js",
        "charts.js",
        "curves.js",
        "data.js",
        "hard.js",
        "insight.js",
        "checkpoints.js",
        "scores.js",
        "uplot/uPlot.esm.js",
        "uplot/uPlot.min.css",
        "uplot/LICENSE",
    ];
    let made = |(name, content): (&'static str, &'static str)| Asset { name, content, tag: tag(content) };
    all.into_iter().map(made).collect()
});

/// A strong tag of a content.
fn tag(content: &str) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(content)[..16]))
}

pub(super) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else { return answers::missing() };
    // Asked for each time, so that a new server's page is there at once; what has not changed is not sent again.
    let caching = [(CACHE_CONTROL, "no-cache"), (ETAG, asset.tag.as_str())];
    if headers.get(IF_NONE_MATCH).is_some_and(|tag| tag == asset.tag.as_str()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, content_type(name))], asset.content).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => HTML,
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_as_its_readme_says() {
        let readme = include_str!("assets/uplot/README.md");
        let mut checked = 0;
        for asset in ASSETS.iter().filter(|asset| asset.name.starts_with("uplot/uPlot")) {
            let name = asset.name.trim_start_matches("uplot/");
            let row = format!("| `{name}` | {} |", hex::encode(Sha256::digest(asset.content)));
            assert!(readme.contains(&row), "{row}");
            checked += 1;
        }
        assert_eq!(checked, 2);
    }

    /// No text of a stranger becomes markup, and nothing is loaded from elsewhere.
    #[test]
    fn the_page_makes_no_markup_from_text_and_names_no_other_site() {
        for asset in ASSETS.iter().filter(|asset| !asset.name.starts_with("uplot/")) {
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!asset.content.contains(word), "{} has {word}", asset.name);
            }
            let elsewhere = asset.content.replace("http://www.w3.org/2000/svg", "");
            for word in ["http:", "https:", "src=\"//", "@import"] {
                assert!(!elsewhere.contains(word), "{} has {word}", asset.name);
            }
            for word in [" style=\"", " onclick=", "<script>", "<style"] {
                assert!(!asset.content.contains(word), "{}: the policy stops {word}", asset.name);
            }
        }
    }
}
