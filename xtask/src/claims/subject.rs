//! What claims are held against: a model, a task, the methods and what their papers say of them.

use clap::ValueEnum;

use super::verdict::Says;
use crate::compared::MEZO;

/// Methods whose learning rate is searched for, with the rate that is their default.
const SEARCHED: [(&str, f64); 12] = [
    ("lora", 5e-4),
    ("dora", 5e-4),
    ("lora-plus", 2.5e-4),
    ("lora-fa", 5e-4),
    ("dylora", 5e-4),
    ("lora:targets=all-linear", 5e-4),
    ("ia3", 3e-3),
    ("prefix", 1e-2),
    ("prompt", 3e-2),
    ("series:size=16", 5e-4),
    ("pfeiffer:size=16", 5e-4),
    ("parallel:size=8", 5e-4),
];
// What is tried on models that speak alone. LOMO clips by length, as in its paper: each step runs twice.
const LOMO: &str = "full:optim.rule=lomo";
const ADALOMO: &str = "full:optim.rule=adalomo:optim.clip=0";
const EAS: &str = "eas:search=20:search_every=1:search_sets=4:search_rate=2";
/// Of as many values as the parallel adapters beside it, in a decoder with gates.
const NARROW: &str = "series:size=6";
/// Further variants, and whose learning rate they take.
const FURTHER: [(&str, &str); 13] = [
    ("lora:r=1", "lora"),
    ("lora:r=2", "lora"),
    ("lora:r=3", "lora"),
    ("lora:r=4", "lora"),
    ("lora:r=5", "lora"),
    ("lora:r=6", "lora"),
    ("lora:r=7", "lora"),
    ("lora:r=64:alpha=8", "lora"),
    ("rslora:r=64:alpha=8", "lora"),
    ("dora:r=2", "dora"),
    ("lora:r=8:targets=[\"q_proj\"]", "lora"),
    ("qlora:r=8:alpha=8", "lora:targets=all-linear"),
    ("qlora:r=8:alpha=8:four_bit.code=fp4", "lora:targets=all-linear"),
];
/// Ranks of DyLoRA and of the LoRA that is cut.
pub const RANKS: usize = 8;

/// What a paper says of two methods.
pub type Pair = (String, String, String, Says);

/// A claim about two entries.
const PAIRS: [(&str, &str, &str, Says); 11] = [
    ("LoRA comes up to all weights", "lora", "full", Says::Close),
    ("rank 1 is nearly enough", "lora:r=1", "lora", Says::Close),
    (
        "queries and values beat queries alone, of as many values",
        "lora:r=4",
        "lora:r=8:targets=[\"q_proj\"]",
        Says::Better,
    ),
    ("rsLoRA keeps rank 64 useful", "rslora:r=64:alpha=8", "lora:r=64:alpha=8", Says::Better),
    ("DoRA beats LoRA", "dora", "lora", Says::Better),
    ("DoRA beats LoRA at rank 2", "dora:r=2", "lora:r=2", Says::Better),
    ("four bits (NF4) cost nothing", "qlora:r=8:alpha=8", "lora:targets=all-linear", Says::Close),
    ("NF4 beats FP4", "qlora:r=8:alpha=8", "qlora:r=8:alpha=8:four_bit.code=fp4", Says::Better),
    (
        "LoRA comes up to parallel adapters",
        "lora:targets=all-linear",
        "parallel:size=8",
        Says::Close,
    ),
    ("parallel adapters beat series", "parallel:size=8", "series:size=16", Says::Better),
    ("series adapters beat prefix", "series:size=16", "prefix", Says::Better),
];

/// What is adapted, and to what.
pub struct Subject {
    pub name: &'static str,
    pub model: &'static str,
    /// What makes the model.
    pub made_by: &'static str,
    pub train: &'static str,
    /// What the learning rates are chosen by.
    pub choice: &'static str,
    /// What is measured, and what the model knew before.
    pub tests: [&'static str; 2],
    /// Of models that speak, samples of each.
    pub limits: &'static [u32],
    pub task: &'static str,
    pub measure: &'static str,
    /// What each method's default rate is multiplied by in the search.
    pub factors: &'static [f64],
    /// AdamW's default rate for all weights.
    full: f64,
    pub batch: u32,
    pub steps: u32,
    pub settings: &'static [&'static str],
    speaking: Option<Speaking>,
}

/// What is tried on models that speak.
struct Speaking {
    /// The first third of its attentions, the last, and a third drawn blindly.
    thirds: [&'static [usize]; 3],
    /// MemVP, and LoRA beside it, with a picture to each question: what pictures cost is what they are compared by.
    /// As many questions a step as of the others, which have eight to a picture.
    memvp: &'static str,
    lora: &'static str,
    /// MemVP with the steps that it makes in the time of LoRA's.
    memvp_longer: &'static str,
}

/// The main job's dual encoder, and the art style that it never saw.
const CLIP: Subject = Subject {
    name: "clip",
    model: "runs/emoji/model",
    made_by: "cargo xtask train",
    train: "emoji:subgroup-style-train",
    choice: "emoji:subgroup-style-val",
    tests: ["emoji:subgroup-style-test", "emoji:val"],
    limits: &[],
    task: "zero-shot",
    measure: "top1",
    factors: &[3.0, 10.0, 30.0],
    full: 2e-5,
    batch: 64,
    steps: 120,
    settings: &[],
    speaking: None,
};
/// A model of DINO's tower and SmolLM2 that describes scenes, and questions about other pictures.
const VLM: Subject = Subject {
    name: "vlm",
    model: "runs/adapt/model",
    made_by: "vlm train configs/adapt.toml",
    train: "easy-vqa:train",
    choice: "easy-vqa:test",
    tests: ["easy-vqa:test", "scenes:captions-val"],
    limits: &[400, 24],
    task: "vqa",
    measure: "accuracy",
    // Tried with one seed: those that suit large models are too low here, too.
    factors: &[3.0, 10.0],
    full: 3e-5,
    batch: 4,
    steps: 80,
    settings: &["model.generative.pack=8", "train.matmul_precision=medium"],
    speaking: Some(Speaking {
        thirds: [
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
            &[1, 4, 6, 9, 13, 14, 18, 21, 25, 28],
        ],
        memvp: "memvp:batch.size=32:model.generative.pack=1",
        lora: "lora:batch.size=32:model.generative.pack=1",
        memvp_longer: "memvp:batch.size=32:model.generative.pack=1:train.steps=160",
    }),
};
/// The same model, and questions about what stands where in pictures like those that it can describe.
const SCENES: Subject = Subject {
    name: "scenes",
    train: "scenes:asked-train",
    choice: "scenes:val",
    tests: ["scenes:test", "scenes:captions-val"],
    ..VLM
};
/// The first with a decoder of five million weights, for any processor.
const SMALL: Subject = Subject {
    name: "small",
    model: "runs/scenes-lists/model",
    made_by: "vlm train configs/scenes-lists.toml --out runs/scenes-lists",
    factors: &[1.0, 3.0, 10.0],
    full: 1e-4,
    batch: 8,
    steps: 60,
    settings: &["model.generative.pack=8"],
    speaking: Some(Speaking {
        thirds: [&[0, 1], &[4, 5], &[1, 3]],
        memvp: "memvp:batch.size=64:model.generative.pack=1",
        lora: "lora:batch.size=64:model.generative.pack=1",
        memvp_longer: "memvp:batch.size=64:model.generative.pack=1:train.steps=120",
    }),
    ..VLM
};

/// What can be adapted.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum On {
    /// The main job's dual encoder, adapted to the art style that it never saw
    Clip,
    /// The model of configs/adapt.toml, adapted to questions about other pictures
    Vlm,
    /// The same, adapted to questions about such pictures
    Scenes,
    /// The model of configs/scenes-lists.toml, whose decoder is small, adapted to the same
    Small,
}

impl On {
    pub fn subject(self) -> &'static Subject {
        match self {
            On::Clip => &CLIP,
            On::Vlm => &VLM,
            On::Scenes => &SCENES,
            On::Small => &SMALL,
        }
    }
}

/// An entry of EAS that skips these.
fn skipping(layers: &[usize]) -> String {
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    format!("eas:layers=[{}]", layers.join(","))
}

impl Subject {
    /// All that runs are measured on, what learning rates are chosen by last if it is something else; and, of
    /// models that speak, samples of each.
    pub fn measured(&self) -> (Vec<&'static str>, Vec<u32>) {
        let (mut tests, mut limits) = (self.tests.to_vec(), self.limits.to_vec());
        if self.choice != self.tests[0] {
            tests.push(self.choice);
            limits.extend(self.limits.first());
        }
        (tests, limits)
    }

    /// What the columns of the table are.
    pub fn columns(&self) -> String {
        let mut text = "\"On set 2\" is what the model knew before".to_owned();
        if self.choice != self.tests[0] {
            text += ", \"on set 3\" what learning rates are chosen by";
        }
        text + "."
    }

    /// Methods whose learning rate is searched for, with the rate that is their default.
    pub fn searched(&self) -> Vec<(&'static str, f64)> {
        let mut all = vec![("full", self.full)];
        all.extend(SEARCHED);
        if let Some(speaking) = &self.speaking {
            // Plain descent wants a rate of its own; AdaLomo's is relative to each weight's size; MeZO's steps
            // are along a direction in all weights.
            all.extend([(LOMO, 1e-2), (ADALOMO, 3e-4), (MEZO, 3e-7), (EAS, 1e-3)]);
            all.push((speaking.memvp, 1e-3));
        }
        all
    }

    /// Further variants, and whose learning rate they take.
    pub fn further(&self) -> Vec<(String, &'static str)> {
        let mut all: Vec<(String, &str)> =
            FURTHER.iter().map(|(method, of)| ((*method).to_owned(), *of)).collect();
        if let Some(speaking) = &self.speaking {
            all.extend(speaking.thirds.iter().map(|layers| (skipping(layers), EAS)));
            all.push((NARROW.to_owned(), "series:size=16"));
            all.push((speaking.lora.to_owned(), "lora"));
            all.push((speaking.memvp_longer.to_owned(), speaking.memvp));
        }
        all
    }

    /// What the papers say of its methods.
    pub fn pairs(&self) -> Vec<Pair> {
        let pair = |claim: &str, a: &str, b: &str, says| {
            (claim.to_owned(), a.to_owned(), b.to_owned(), says)
        };
        let mut all: Vec<Pair> =
            PAIRS.iter().map(|(claim, a, b, says)| pair(claim, a, b, *says)).collect();
        let Some(Speaking { thirds, memvp, lora, memvp_longer }) = &self.speaking else {
            return all;
        };
        all.extend([
            pair("LOMO comes up to AdamW", LOMO, "full", Says::Close),
            pair("AdaLomo comes up to AdamW", ADALOMO, "full", Says::Close),
            pair("MeZO comes up to AdamW in as many steps", MEZO, "full", Says::Close),
            pair(
                "parallel adapters beat series of as many values",
                "parallel:size=8",
                NARROW,
                Says::Better,
            ),
            pair("EAS with a third skipped comes up to LoRA", EAS, "lora", Says::Close),
            pair("EAS comes up to parallel adapters", EAS, "parallel:size=8", Says::Close),
            pair("MemVP comes up to LoRA with tokens of pictures", memvp, lora, Says::Close),
            pair("MemVP comes up to it in as much time", memvp_longer, lora, Says::Close),
        ]);
        for (which, layers) in ["first", "last", "drawn blindly"].iter().zip(thirds) {
            let claim = format!("the third that EAS finds beats the {which}");
            all.push((claim, EAS.to_owned(), skipping(layers), Says::Better));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_measured() {
        for on in On::value_variants() {
            let subject = on.subject();
            let searched = subject.searched();
            let further = subject.further();
            let is_there = |entry: &str| {
                searched.iter().any(|(name, _)| *name == entry)
                    || further.iter().any(|(name, _)| name == entry)
            };
            for (claim, a, b, _) in subject.pairs() {
                assert!(is_there(&a) && is_there(&b), "{}: {claim}", subject.name);
            }
            for (name, of) in &further {
                assert!(searched.iter().any(|(entry, _)| entry == of), "{name} has no rate");
            }
        }
    }
}
