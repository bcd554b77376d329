//! The page: pictures in one HTML file that loads nothing and links to the files.

use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use vlm_store::write_file;

use super::title::{self, Title};
use super::{Found, thumb};

/// Side of the square that a picture fits in: twice what is shown, for sharp screens.
const SIDE: u32 = 400;
/// Of JPEG, 1 to 100.
const QUALITY: u8 = 82;

const STYLE: &str = "
:root{color-scheme:light dark;--paper:#f0f1f3;--card:#fff;--ink:#20242a;--faint:#6e747e;--line:#d9dce1}
@media(prefers-color-scheme:dark){:root{--paper:#17191d;--card:#23262c;--ink:#e6e8eb;--faint:#9aa1ac;--line:#343941}}
*{box-sizing:border-box}
body{margin:0;padding:1.5rem;background:var(--paper);color:var(--ink);font:14px/1.4 system-ui,sans-serif}
header{display:flex;gap:1rem;align-items:center;margin-bottom:1.25rem}
header img{width:72px;height:72px;object-fit:contain;background:#fff;border:1px solid var(--line);border-radius:6px}
h1{font-size:1.6rem;margin:0;font-weight:600;overflow-wrap:anywhere}
header p{margin:.1rem 0 0;color:var(--faint);overflow-wrap:anywhere}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:1rem}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;overflow:hidden}
figure a{display:flex;height:210px;align-items:center;justify-content:center;background:#fff;padding:8px;color:#6e747e;text-decoration:none}
figure img{max-width:100%;max-height:100%;object-fit:contain}
figcaption{padding:.5rem .7rem;display:flex;gap:.6rem;justify-content:space-between;border-top:1px solid var(--line)}
figcaption span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
figcaption b{font-weight:400;color:var(--faint);font-variant-numeric:tabular-nums}
";

/// Writes the pictures, the best first.
///
/// # Errors
/// What the operating system reports.
pub fn write(path: &Path, title: &Title, found: &[Found]) -> Result<()> {
    let html = page(title, found)?;
    Ok(write_file(path, &mut |w| w.write_all(html.as_bytes()))?)
}

fn page(title: &Title, found: &[Found]) -> Result<String> {
    let heading = escaped(&title.heading);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{heading}</title>\n<style>{STYLE}</style>\n<header>"
    );
    if let Some(like) = title.like.as_ref().and_then(|like| thumb::one(like, SIDE)) {
        write!(html, "<img src=\"{}\" alt=\"\">", data_uri(&like)?)?;
    }
    let below = escaped(&title.below);
    writeln!(html, "<div><h1>{heading}</h1><p>{below}</p></div></header>\n<main>")?;
    for (found, picture) in found.iter().zip(thumb::all(found, SIDE)) {
        let name = escaped(&title::name(&found.path));
        let shown = match &picture {
            Some(picture) => format!("<img src=\"{}\" alt=\"{name}\">", data_uri(picture)?),
            None => "cannot be read".into(),
        };
        writeln!(
            html,
            "<figure><a href=\"{}\" title=\"{}\">{shown}</a>\
             <figcaption><span>{name}</span><b>{:.3}</b></figcaption></figure>",
            link(&found.path),
            escaped(&title::plain(&found.path)),
            found.similarity
        )?;
    }
    if found.is_empty() {
        html.push_str("<p>no pictures</p>\n");
    }
    html.push_str("</main>\n</html>\n");
    Ok(html)
}

fn data_uri(picture: &RgbImage) -> Result<String> {
    let mut jpeg = Cursor::new(Vec::new());
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY))?;
    Ok(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg.get_ref())))
}

/// A link to a file: all but letters, digits and a few signs as %XX, byte by byte, so that also
/// names that are no text lead there.
fn link(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut link = String::from(if bytes.first() == Some(&b'/') { "file://" } else { "file:///" });
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                link.push(char::from(*byte));
            }
            b'\\' if cfg!(windows) => link.push('/'),
            _ => link.push_str(&format!("%{byte:02X}")),
        }
    }
    link
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_names() {
        let found = Found {
            image: String::new(),
            similarity: 0.25,
            path: "/none/a\"b<script>'&%20 é#?.png".into(),
        };
        let like = None;
        let title = Title { heading: "<b>&".into(), below: String::new(), like };
        let html = page(&title, &[found]).unwrap();
        assert!(html.contains("<title>&lt;b&gt;&amp;</title>"), "{html}");
        assert!(
            html.contains("href=\"file:///none/a%22b%3Cscript%3E%27%26%2520%20%C3%A9%23%3F.png\"")
        );
        assert!(html.contains("a&quot;b&lt;script&gt;&#39;&amp;%20 é#?.png"));
        assert!(!html.contains("<script") && !html.contains("src=\"http"));
    }
}
