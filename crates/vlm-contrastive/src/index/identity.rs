//! What of a model folder the features of pictures depend on.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::walk::Stamp;
use crate::joined::JoinedFolder;

/// Files that only texts need.
const OF_TEXTS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "generation_config.json",
    "chat_template.json",
];
/// Folders in a model folder have no folders in them.
const DEPTH: usize = 3;

/// Names, lengths and times of change of the files, a line each: the quick look.
pub fn stamps(model: &Path) -> String {
    let lines = files(model).into_iter().map(|name| {
        let Stamp(len, changed) =
            fs::metadata(model.join(&name)).map(|meta| Stamp::of(&meta)).unwrap_or_default();
        format!("{} {len} {changed}\n", name.display())
    });
    lines.collect()
}

/// 128 bits of names and contents: the thorough look, which a copied folder passes too.
///
/// # Errors
/// If a file cannot be read.
pub fn contents(model: &Path) -> std::io::Result<String> {
    let mut sum = Sum([0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344]);
    let mut piece = vec![0u8; 1 << 20];
    for name in files(model) {
        sum.add(name.as_os_str().as_encoded_bytes());
        let mut file = File::open(model.join(&name))?;
        loop {
            // Whole pieces, so that the sum doesn't depend on how the system cuts them.
            let mut len = 0;
            while len < piece.len() {
                match file.read(&mut piece[len..])? {
                    0 => break,
                    more => len += more,
                }
            }
            sum.add(&piece[..len]);
            if len < piece.len() {
                break;
            }
        }
    }
    Ok(format!("{:016x}{:016x}", sum.0[0], sum.0[1]))
}

/// The files, as paths in the folder, sorted.
fn files(model: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    list(model, Path::new(""), JoinedFolder::is_one(model), DEPTH, &mut found);
    found.sort();
    found
}

fn list(model: &Path, below: &Path, joined: bool, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(model.join(below)).into_iter().flatten().flatten();
    for entry in entries {
        let name = below.join(entry.file_name());
        let file = entry.file_name().to_string_lossy().into_owned();
        if model.join(&name).is_dir() {
            if depth > 0 && !file.starts_with('.') && !(joined && file == "text") {
                list(model, &name, joined, depth - 1, found);
            }
        } else if file.ends_with(".safetensors")
            || file.ends_with(".json") && !OF_TEXTS.contains(&file.as_str())
        {
            found.push(name);
        }
    }
}

/// A quick sum that tells files apart which nobody forged.
struct Sum([u64; 2]);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let mut word = |word: u64| {
            for (sum, factor) in
                self.0.iter_mut().zip([0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F])
            {
                *sum = (*sum ^ word).wrapping_mul(factor).rotate_left(29);
            }
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|bytes| word(u64::from_le_bytes(*bytes)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word(u64::from_le_bytes(last));
        word(bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pictures_need_counts_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("config.json", r#"{"model_type": "vlm_joined_dual_encoder"}"#);
        write("vision/model.safetensors", "weights");
        write("text/model.safetensors", "words");
        write("README.md", "");
        let names = [Path::new("config.json"), Path::new("vision/model.safetensors")];
        assert_eq!(files(dir.path()), names);
        let (quick, thorough) = (stamps(dir.path()), contents(dir.path()).unwrap());
        write("text/model.safetensors", "other words");
        write("tokenizer.json", "{}");
        assert_eq!((stamps(dir.path()), contents(dir.path()).unwrap()), (quick, thorough.clone()));
        // The same bytes in another place.
        write("vision/model.safetensors", "Weights");
        assert_ne!(contents(dir.path()).unwrap(), thorough);
        write("vision/model.safetensors", "weights");
        assert_eq!(contents(dir.path()).unwrap(), thorough);
        fs::rename(dir.path().join("vision"), dir.path().join("pictures")).unwrap();
        assert_ne!(contents(dir.path()).unwrap(), thorough);
    }
}
