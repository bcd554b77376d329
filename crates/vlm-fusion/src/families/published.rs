//! Configurations after those that are published, with all that their authors left in them.

use serde_json::{Value, json};
use vlm_encoders::{Nested, VisionSpec};
use vlm_store::{Float, TensorFiles, TensorSpec, write_tensors};

use super::{Family, parse};
use crate::model::rows_of;
use crate::spec::Reading;

/// Understands a configuration beside a file that has so many layers, of no size.
fn understood(config: Value, layers: [(&str, usize); 2], more: &[&str]) -> Family {
    let Value::Object(map) = config else { unreachable!("an object") };
    let layers = layers.iter().flat_map(|(start, count)| {
        (0..*count).map(move |layer| format!("{start}{layer}.layer_norm1.weight"))
    });
    let names = layers.chain(more.iter().map(|name| (*name).to_owned()));
    let specs: Vec<TensorSpec> = names.map(|name| TensorSpec { name, shape: vec![0] }).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let mut none = |_: &str| burn::tensor::TensorData::new(Vec::<f32>::new(), [0]);
    write_tensors(&file, Float::F32, &[], &specs, &mut none).unwrap();
    let files = TensorFiles::open_file(&file).unwrap();
    parse(map, &files).unwrap_or_else(|reason| panic!("{reason}"))
}

fn side(vision: &Nested<VisionSpec>) -> (usize, usize) {
    vision.spec.image
}

#[test]
fn llava_1_5_7b() {
    let config = json!({
        "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100,
        "image_token_index": 32000, "model_type": "llava", "pad_token_id": 32001,
        "projector_hidden_act": "gelu", "tie_word_embeddings": false, "torch_dtype": "float16",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
            "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-5,
            "torch_dtype": "float16", "vocab_size": 32064,
        },
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
            "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
            "patch_size": 14, "projection_dim": 768, "vocab_size": 32000,
        },
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "vocab_size": 32064,
    });
    let vision = "vision_tower.vision_model.encoder.layers.";
    let text = "language_model.model.layers.";
    let head = "language_model.lm_head.weight";
    let family = understood(config, [(vision, 24), (text, 32)], &[head]);
    let depths = vec![23];
    assert_eq!(family.spec.reading, Reading::Layers { depths, skip_first: true });
    assert_eq!(rows_of(&family.spec, side(&family.vision)), 576);
    assert_eq!((family.spec.text.vocabulary, family.spec.text.context), (32064, 4096));
    assert!(family.spec.text.head.is_some_and(|head| !head.tied));
}

#[test]
fn smolvlm_256m() {
    let config = json!({
        "architectures": ["Idefics3ForConditionalGeneration"], "image_token_id": 49190,
        "model_type": "idefics3", "scale_factor": 4, "tie_word_embeddings": false,
        "text_config": {
            "_flash_attn_2_enabled": true, "_name_or_path": "None",
            "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": 576,
            "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192,
            "model_type": "llama", "neftune_noise_alpha": 0.0, "num_attention_heads": 9,
            "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2,
            "perceiver_config": { "model_type": "vllama3", "resampler_depth": 6 },
            "pixel_shuffle_factor": 4, "qk_layer_norms": false, "rms_norm_eps": 1e-5,
            "rope_interleaved": false, "rope_theta": 100_000, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "transformers.js_config": {}, "use_resampler": false,
            "vocab_size": 49280,
        },
        "torch_dtype": "bfloat16", "transformers_version": "4.46.0", "use_cache": true,
        "use_reentrant_checkpointing": false, "vocab_size": 49280,
        "vision_config": {
            "hidden_size": 768, "image_size": 512, "max_image_size": { "longest_edge": 512 },
            "model_type": "idefics3", "num_attention_heads": 12, "patch_size": 16,
            "size": { "longest_edge": 2048 }, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "use_base_siglip": false,
        },
    });
    let layers = [("model.vision_model.encoder.layers.", 12), ("model.text_model.layers.", 30)];
    let family = understood(config, layers, &["lm_head.weight"]);
    assert_eq!(rows_of(&family.spec, side(&family.vision)), 64);
    assert_eq!(family.spec.vision.block.inner, 3072);
    assert!(family.spec.text.head.is_some_and(|head| !head.tied));
}

#[test]
fn paligemma_3b_and_2() {
    let vision = json!({
        "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 27, "num_image_tokens": 256,
        "patch_size": 14, "projection_dim": 2048, "projector_hidden_act": "gelu_fast",
        "torch_dtype": "float32", "vision_use_head": false,
    });
    let mut config = json!({
        "_vocab_size": 257_152, "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2, "eos_token_id": 1, "hidden_size": 2048, "image_token_index": 257_152,
        "model_type": "paligemma", "pad_token_id": 0, "projection_dim": 2048,
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma",
            "num_attention_heads": 8, "num_hidden_layers": 18, "num_image_tokens": 256,
            "num_key_value_heads": 1, "torch_dtype": "float32", "vocab_size": 257_216,
        },
        "torch_dtype": "float32", "transformers_version": "4.41.0.dev0", "vision_config": vision,
    });
    let (towers, text) =
        ("vision_tower.vision_model.encoder.layers.", "language_model.model.layers.");
    let family = understood(config.clone(), [(towers, 27), (text, 18)], &[]);
    assert_eq!(rows_of(&family.spec, side(&family.vision)), 256);
    assert!(family.spec.prefix && family.spec.text.head.is_some_and(|head| head.tied));
    config["text_config"] = json!({
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
        "intermediate_size": 9216, "model_type": "gemma2", "num_hidden_layers": 26,
        "num_image_tokens": 256, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "torch_dtype": "bfloat16", "vocab_size": 257_216,
    });
    (config["hidden_size"], config["projection_dim"]) = (json!(2304), json!(2304));
    let family = understood(config, [(towers, 27), (text, 26)], &[]);
    assert_eq!(family.spec.text.head.and_then(|head| head.softcap), Some(30.0));
    assert_eq!(family.spec.divide, Some(48.0));
}
