//! Where the parameters of fusion modules lie in the files of others.
//!
//! Each table is for one module, paths counted from that module, and takes the root of its names
//! in the file: `Q_FORMER.under("qformer.")` is a table for [`vlm_encoders::checkpoint`].

use vlm_encoders::{Layout, Named};

/// The beginning of a path here, what stands for it there, and how; a name that begins with `/` has
/// no root.
type Entry = (&'static str, &'static str, How);

#[derive(Clone, Copy, Debug)]
enum How {
    /// Matrices are transposed, all else is the same.
    Plain,
    /// One of two that lie one under the other.
    Half(usize),
    /// Not transposed, with so many dimensions of 1 before its own.
    Lead(usize),
}

use How::{Half, Lead, Plain};

/// Names of one module elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Before and after a layer's number here, and there.
    layers: &'static [[&'static str; 3]],
    /// Within a layer.
    inner: &'static [Entry],
    /// All others.
    outer: &'static [Entry],
}

impl Names {
    /// The table, for a file where the module's names begin with `root`.
    pub fn under(self, root: &str) -> impl Fn(&str, usize) -> Named {
        self.numbered(root, |number| number)
    }

    /// The same where layer `n` here has the number `number(n)` there.
    pub fn numbered(
        self,
        root: &str,
        number: impl Fn(usize) -> usize,
    ) -> impl Fn(&str, usize) -> Named {
        let root = root.to_owned();
        move |path, rank| {
            let layer = self.layers.iter().find_map(|[ours, before, after]| {
                let (digits, rest) = path.strip_prefix(ours)?.split_once('.')?;
                let number = number(digits.parse().ok()?);
                Some((format!("{before}{number}{after}"), rest))
            });
            let (before, rest, table) = match layer {
                Some((before, rest)) => (before, rest, self.inner),
                None => (String::new(), path, self.outer),
            };
            let found = table.iter().find(|(ours, ..)| rest.starts_with(ours));
            let (name, how) = match found {
                Some((ours, theirs, how)) => (format!("{theirs}{}", &rest[ours.len()..]), *how),
                // The same there as here.
                None => (rest.to_owned(), Plain),
            };
            let name = match name.strip_prefix('/') {
                Some(name) => name.to_owned(),
                None => format!("{root}{before}{name}"),
            };
            let matrix = rank == 2 && path.ends_with(".weight");
            let layout = match how {
                Lead(ones) => Layout::Lead(ones),
                _ if matrix => Layout::Transposed,
                _ => Layout::Same,
            };
            let part = match how {
                Half(index) => Some((index, 2)),
                _ => None,
            };
            Named { name, layout, part }
        }
    }
}

/// A [`QFormer`](super::QFormer) in transformers' BLIP-2, where its root is `qformer.` and the
/// queries are `query_tokens`.
pub const Q_FORMER: Names = Names {
    layers: &[["layers.", "encoder.layer.", "."]],
    inner: &[
        ("attention.q.", "attention.attention.query.", Plain),
        ("attention.k.", "attention.attention.key.", Plain),
        ("attention.v.", "attention.attention.value.", Plain),
        ("attention.out.", "attention.output.dense.", Plain),
        ("norm.", "attention.output.LayerNorm.", Plain),
        ("cross.q.", "crossattention.attention.query.", Plain),
        ("cross.k.", "crossattention.attention.key.", Plain),
        ("cross.v.", "crossattention.attention.value.", Plain),
        ("cross.out.", "crossattention.output.dense.", Plain),
        ("cross_norm.", "crossattention.output.LayerNorm.", Plain),
        ("queries.feed_forward.up.", "intermediate_query.dense.", Plain),
        ("queries.feed_forward.down.", "output_query.dense.", Plain),
        ("queries.norm.", "output_query.LayerNorm.", Plain),
        ("text.feed_forward.up.", "intermediate.dense.", Plain),
        ("text.feed_forward.down.", "output.dense.", Plain),
        ("text.norm.", "output.LayerNorm.", Plain),
    ],
    outer: &[("norm.", "layernorm.", Plain), ("queries", "/query_tokens", Lead(1))],
};

/// A [`Resampler`](super::Resampler) of Flamingo's style in open_flamingo, where its root is
/// `perceiver.`.
pub const FLAMINGO_RESAMPLER: Names = Names {
    layers: &[["layers.", "layers.", "."]],
    inner: &[
        ("picture_norm.", "0.norm_media.", Plain),
        ("norm1.", "0.norm_latents.", Plain),
        ("attention.q.", "0.to_q.", Plain),
        ("attention.k.", "0.to_kv.", Half(0)),
        ("attention.v.", "0.to_kv.", Half(1)),
        ("attention.out.", "0.to_out.", Plain),
        ("norm2.", "1.0.", Plain),
        ("feed_forward.up.", "1.1.", Plain),
        ("feed_forward.down.", "1.3.", Plain),
    ],
    outer: &[],
};

/// A [`Resampler`](super::Resampler) of Idefics2's style in transformers, where its root is
/// `model.connector.perceiver_resampler.`.
pub const IDEFICS2_RESAMPLER: Names = Names {
    layers: &[["layers.", "layers.", "."]],
    inner: &[
        ("picture_norm.", "input_context_norm.", Plain),
        ("norm1.", "input_latents_norm.", Plain),
        ("attention.q.", "self_attn.q_proj.", Plain),
        ("attention.k.", "self_attn.k_proj.", Plain),
        ("attention.v.", "self_attn.v_proj.", Plain),
        ("attention.out.", "self_attn.o_proj.", Plain),
        ("norm2.", "post_attention_layernorm.", Plain),
        ("feed_forward.gate.", "mlp.gate_proj.", Plain),
        ("feed_forward.up.", "mlp.up_proj.", Plain),
        ("feed_forward.down.", "mlp.down_proj.", Plain),
    ],
    outer: &[],
};

/// [`GatedBlocks`](super::GatedBlocks) in open_flamingo, where their root is
/// `lang_encoder.gated_cross_attn_layers.`; their numbers there are those of the decoder's blocks:
/// `GATED.numbered(root, |block| blocks.layer(block))`.
pub const GATED: Names = Names {
    layers: &[["blocks.", "", "."]],
    inner: &[
        ("norm1.", "attn.norm.", Plain),
        ("cross.q.", "attn.to_q.", Plain),
        ("cross.k.", "attn.to_kv.", Half(0)),
        ("cross.v.", "attn.to_kv.", Half(1)),
        ("cross.out.", "attn.to_out.", Plain),
        ("gate1", "attn_gate", Plain),
        ("norm2.", "ff.0.", Plain),
        ("feed_forward.up.", "ff.1.", Plain),
        ("feed_forward.down.", "ff.3.", Plain),
        ("gate2", "ff_gate", Plain),
    ],
    outer: &[],
};

/// [`CoAttention`](super::CoAttention) of METER's style with both streams, in METER and in
/// transformers' BridgeTower.
pub const METER: Names = Names {
    layers: &[
        ["picture.stack.blocks.", "cross_modal_image_layers.", "."],
        ["text.stack.blocks.", "cross_modal_text_layers.", "."],
    ],
    inner: &[
        ("attention.q.", "attention.self.query.", Plain),
        ("attention.k.", "attention.self.key.", Plain),
        ("attention.v.", "attention.self.value.", Plain),
        ("attention.out.", "attention.output.dense.", Plain),
        ("norm1.", "attention.output.LayerNorm.", Plain),
        ("cross.q.", "crossattention.self.query.", Plain),
        ("cross.k.", "crossattention.self.key.", Plain),
        ("cross.v.", "crossattention.self.value.", Plain),
        ("cross.out.", "crossattention.output.dense.", Plain),
        ("cross_norm.", "crossattention.output.LayerNorm.", Plain),
        ("feed_forward.up.", "intermediate.dense.", Plain),
        ("feed_forward.down.", "output.dense.", Plain),
        ("norm2.", "output.LayerNorm.", Plain),
    ],
    outer: &[],
};

/// [`Merged`](super::Merged) in transformers' ViLT, where its root is empty or `vilt.`.
pub const VILT: Names = Names {
    layers: &[["stack.blocks.", "encoder.layer.", "."]],
    inner: &[
        ("attention.q.", "attention.attention.query.", Plain),
        ("attention.k.", "attention.attention.key.", Plain),
        ("attention.v.", "attention.attention.value.", Plain),
        ("attention.out.", "attention.output.dense.", Plain),
        ("norm1.", "layernorm_before.", Plain),
        ("norm2.", "layernorm_after.", Plain),
        ("feed_forward.up.", "intermediate.dense.", Plain),
        ("feed_forward.down.", "output.dense.", Plain),
    ],
    outer: &[("norm.", "layernorm.", Plain)],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        let name = |table: &dyn Fn(&str, usize) -> Named, path: &str, rank| {
            let Named { name, layout, part } = table(path, rank);
            (name, layout, part)
        };
        let table = GATED.numbered("gates.", |block| 4 * block + 3);
        let found = name(&table, "blocks.1.cross.v.weight", 2);
        assert_eq!(found, ("gates.7.attn.to_kv.weight".into(), Layout::Transposed, Some((1, 2))));
        assert_eq!(name(&table, "blocks.0.gate1", 1).0, "gates.3.attn_gate");
        let table = Q_FORMER.under("qformer.");
        let found = name(&table, "queries", 2);
        assert_eq!(found, ("query_tokens".into(), Layout::Lead(1), None));
        let found = name(&table, "layers.10.queries.norm.bias", 1);
        assert_eq!(found.0, "qformer.encoder.layer.10.output_query.LayerNorm.bias");
    }
}
