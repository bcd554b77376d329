//! Prompt templates: how a class name becomes captions for zero-shot classification.

use std::path::Path;

use crate::error::Error;

/// Where the class name goes in a template.
const PLACE: &str = "{}";

/// Prompt templates, each with exactly one `{}` for the class name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

impl Templates {
    /// Reads a choice of templates: `clip80` (CLIP's 80 for ImageNet), `none` (the bare class
    /// name), or the path of a UTF-8 text file with one template a line. Lines of white space
    /// are passed over.
    ///
    /// # Errors
    /// [`Error::TemplateFile`] if there is no such file, [`Error::Placeholder`] with the line of
    /// a template that has not exactly one `{}`, [`Error::NoTemplate`] if the file has none.
    pub fn parse(choice: &str) -> Result<Self, Error> {
        match choice {
            "clip80" => Ok(Self::clip80()),
            "none" => Ok(Self::none()),
            path => {
                let path = Path::new(path);
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::TemplateFile { path: path.to_owned(), source })?;
                Self::from_text(path, &text)
            }
        }
    }

    /// The bare class name.
    pub fn none() -> Self {
        Self(vec![PLACE.to_owned()])
    }

    /// The 80 templates that CLIP's zero-shot results on ImageNet use (openai/CLIP,
    /// `notebooks/Prompt_Engineering_for_ImageNet.ipynb`), built from their grammar. "a
    /// origami" and its like are in the original, and CLIP's numbers depend on them.
    pub fn clip80() -> Self {
        let mut list = Vec::with_capacity(80);
        for the in ["a", "the"] {
            list.extend(QUALITIES.map(|quality| format!("a {quality} photo of {the} {{}}.")));
            list.extend(LOOKS.map(|look| format!("a photo of {the} {look} {{}}.")));
            list.extend(MEDIA.map(|medium| format!("{medium} of {the} {{}}.")));
            list.extend(MATERIALS.map(|material| format!("{the} {material} {{}}.")));
            list.push(format!("{the} {{}} in a video game."));
        }
        list.extend(["a", "the", "many", "my", "one"].map(|of| format!("a photo of {of} {{}}.")));
        list.extend(["a", "the", "my"].map(|of| format!("itap of {of} {{}}.")));
        Self(list)
    }

    /// The templates.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The captions of one class, a template each, in the order of [`as_slice`](Self::as_slice).
    pub fn captions(&self, name: &str) -> Vec<String> {
        self.0.iter().map(|template| fill(template, name)).collect()
    }

    fn from_text(path: &Path, text: &str) -> Result<Self, Error> {
        // Editors on Windows may put a byte order mark in front, which no caption should have.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut list = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let template = line.trim();
            if template.is_empty() {
                continue;
            }
            let found = template.matches(PLACE).count();
            if found != 1 {
                let (path, text) = (path.to_owned(), template.to_owned());
                return Err(Error::Placeholder { path, line: index + 1, text, found });
            }
            list.push(template.to_owned());
        }
        if list.is_empty() {
            return Err(Error::NoTemplate(path.to_owned()));
        }
        Ok(Self(list))
    }
}

/// Puts a class name into a template; a name that itself holds `{}` stays as it is.
pub fn fill(template: &str, name: &str) -> String {
    template.replace(PLACE, name)
}

const QUALITIES: [&str; 11] = [
    "bad",
    "low resolution",
    "cropped",
    "bright",
    "dark",
    "close-up",
    "black and white",
    "pixelated",
    "jpeg corrupted",
    "blurry",
    "good",
];
const LOOKS: [&str; 8] =
    ["hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small"];
const MEDIA: [&str; 10] = [
    "a sculpture",
    "a rendering",
    "graffiti",
    "a tattoo",
    "a drawing",
    "a painting",
    "a doodle",
    "a sketch",
    "a rendition",
    "art",
];
const MATERIALS: [&str; 6] = ["embroidered", "plastic", "origami", "toy", "cartoon", "plushie"];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn read(text: &str) -> Result<Templates, Error> {
        Templates::from_text(Path::new("prompts.txt"), text)
    }

    #[test]
    fn clips_eighty() {
        let templates = Templates::parse("clip80").unwrap();
        let list = templates.as_slice();
        assert_eq!(list.iter().collect::<HashSet<_>>().len(), 80);
        assert_eq!(list.len(), 80);
        assert!(list.iter().all(|t| t.matches("{}").count() == 1 && t.ends_with('.')));
        let count = |has: &str| list.iter().filter(|t| t.contains(has)).count();
        let counts =
            ["a photo of ", " photo of ", "itap of ", " in a video game.", " the "].map(count);
        assert_eq!(counts, [21, 43, 3, 2, 31]);
        // From open_clip 3.3.0's list: a letter too many, too few or wrong moves a sum.
        let text = list.concat();
        let squares: usize = text.bytes().map(|b| usize::from(b) * usize::from(b)).sum();
        assert_eq!((text.len(), squares), (1668, 15_443_646));
        for spot in [
            "a origami {}.",
            "graffiti of the {}.",
            "a jpeg corrupted photo of the {}.",
            "a photo of a hard to see {}.",
            "itap of my {}.",
            "the {} in a video game.",
            "art of a {}.",
            "a close-up photo of a {}.",
        ] {
            assert!(list.iter().any(|t| t == spot), "{spot}");
        }
    }

    #[test]
    fn fills_in_the_name() {
        assert_eq!(Templates::parse("none").unwrap().captions("tench"), ["tench"]);
        assert_eq!(
            fill("a photo of a {}.", "great white shark"),
            "a photo of a great white shark."
        );
        assert_eq!(fill("the {}.", "{} brand"), "the {} brand.");
    }

    #[test]
    fn reads_files() {
        let got = read("\u{feff}a {}.\r\n\r\n  the {} \n").unwrap();
        assert_eq!(got.captions("cat"), ["a cat.", "the cat"]);
        let path = std::env::temp_dir().join(format!("vlm-templates-{}.txt", std::process::id()));
        std::fs::write(&path, "my {}\n").unwrap();
        let got = Templates::parse(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(got.unwrap().as_slice(), ["my {}"]);
    }

    #[test]
    fn errors_name_the_line() {
        let message = |text| read(text).unwrap_err().to_string();
        let want = "a template needs exactly one {} for the class name, and";
        assert_eq!(message("a {}\n\na photo\n"), format!("prompts.txt:3: {want} `a photo` has 0"));
        assert_eq!(message("{} {}"), format!("prompts.txt:1: {want} `{{}} {{}}` has 2"));
        assert!(message("\n \n").starts_with("prompts.txt: no template"));
        let missing = Templates::parse("clip81").unwrap_err().to_string();
        assert!(missing.starts_with("clip81: ") && missing.contains("`clip80`"), "{missing}");
    }
}
