//! BERT (Devlin et al. 2018, arXiv 1810.04805), and what sentence-transformers made of it.

use vlm_nn::{Activation, BlockConfig, NormPlace};
use vlm_store::TensorFiles;

use super::fields::{Fields, heads_divide};
use super::names::{Entry, How, Names};
use super::{Family, Spec, root};
use crate::towers::{TextPool, TextSpec};

const INNER: &[Entry] = &[
    ("attention.q.", "attention.self.query.", How::Plain),
    ("attention.k.", "attention.self.key.", How::Plain),
    ("attention.v.", "attention.self.value.", How::Plain),
    ("attention.out.", "attention.output.dense.", How::Plain),
    ("norm1.", "attention.output.LayerNorm.", How::Plain),
    ("feed_forward.up.", "intermediate.dense.", How::Plain),
    ("feed_forward.down.", "output.dense.", How::Plain),
    ("norm2.", "output.LayerNorm.", How::Plain),
];

const OUTER: &[Entry] = &[
    ("text.tokens", "embeddings.word_embeddings.weight", How::Plain),
    ("text.positions", "embeddings.position_embeddings.weight", How::Plain),
    ("text.segments", "embeddings.token_type_embeddings.weight", How::Plain),
    ("text.embed_norm.", "embeddings.LayerNorm.", How::Plain),
    ("text.dense.", "pooler.dense.", How::Plain),
];

/// `BertModel`, and models with a head on it without that head.
pub fn parse(mut fields: Fields, files: &TensorFiles) -> Result<Family, String> {
    let (width, heads) =
        (fields.size("hidden_size", 768)?, fields.size("num_attention_heads", 12)?);
    heads_divide(width, heads)?;
    fields.only("position_embedding_type", "absolute")?;
    fields.only("is_decoder", false)?;
    fields.only("add_cross_attention", false)?;
    let shape = BlockConfig {
        width,
        heads,
        inner: fields.size("intermediate_size", 3072)?,
        activation: fields.activation("hidden_act", Activation::Gelu)?,
        eps: fields.positive("layer_norm_eps", 1e-12)?,
        place: NormPlace::Post,
        ..BlockConfig::default()
    };
    let root = root(files, "bert.");
    let pooler = files.shape(&format!("{root}pooler.dense.weight")).is_some();
    // Remains of the exporters of old.
    for key in [
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "directionality",
    ] {
        fields.take(key);
    }
    let text = TextSpec {
        vocabulary: fields.size("vocab_size", 30522)?,
        context: fields.size("max_position_embeddings", 512)?,
        positions: true,
        segments: fields.size("type_vocab_size", 2)?,
        embed_norm: true,
        embed_scale: None,
        blocks: vec![shape.clone(); fields.layers(12)?],
        shape,
        final_norm: false,
        pool: if pooler { TextPool::First } else { TextPool::Absent },
        dense: pooler.then_some(width),
        dense_tanh: true,
        head: None,
    };
    fields.finish()?;
    Ok(Family {
        spec: Spec::Text(text, None),
        names: Names {
            roots: [String::new(), root],
            blocks: ["", "encoder.layer."],
            inner: INNER,
            outer: OUTER,
            patches: None,
        },
        carried: &["cls.", "classifier.", "qa_outputs."],
        surplus: &["embeddings.position_ids", "embeddings.token_type_ids"],
    })
}
