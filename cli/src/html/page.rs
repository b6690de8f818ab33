//! The document around a report.

use maud::{html, Markup, PreEscaped, DOCTYPE};

/// The style of the page and of its charts.
pub(super) const STYLE: &str = include_str!("page.css");

/// A whole HTML document with `body` in its `main` element. `title` is the name of the document, which a window shows;
/// the body has its own heading. Nothing is loaded from elsewhere.
pub fn page(title: &str, body: Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_its_style_and_escapes_its_title() {
        let text = page("a < b", html! { h1 { "Report" } });
        assert!(text.starts_with("<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">"));
        assert!(text.contains("<title>a &lt; b</title>"));
        assert!(text.contains("prefers-color-scheme: dark"));
        assert!(text.ends_with("<body><main><h1>Report</h1></main></body></html>"));
    }

    /// A style element ends at the first `</`, and a reference to a file or an address would break a page that stands
    /// alone.
    #[test]
    fn the_style_stands_alone() {
        for text in ["</", "url(", "@import", "http:", "https:"] {
            assert!(!STYLE.contains(text), "{text}");
        }
    }
}
