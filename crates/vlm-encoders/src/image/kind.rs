//! The processor classes of transformers, and what each takes for granted.

use super::filter::Filter;
use super::patches::Patching;
use super::processor::{CLIP_MEAN, CLIP_STD, ImageProcessor, Resize};
use super::tiles::Tiling;

/// Mean and standard deviation, per channel, of processors that map 0…255 to −1…1.
const HALF: [f64; 3] = [0.5; 3];

/// A class of transformers that prepares pictures. It decides what is done where
/// `preprocessor_config.json` is silent, and which steps there are at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `CLIPImageProcessor`: shorter edge, centre crop, OpenAI's statistics.
    Clip,
    /// `SiglipImageProcessor`: to an exact size, −1…1.
    Siglip,
    /// `Siglip2ImageProcessor`: as many patches as allowed in the picture's own proportions, −1…1.
    Siglip2,
    /// `ViTImageProcessor`, formerly `ViTFeatureExtractor`: to an exact size, bilinear, −1…1.
    Vit,
    /// `Idefics3ImageProcessor`: in tiles, Lanczos, −1…1.
    Idefics3,
    /// `SmolVLMImageProcessor`: the same.
    SmolVlm,
    /// `BitImageProcessor`, which DINOv2's files name: as CLIP's.
    Bit,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Clip,
        Self::Siglip,
        Self::Siglip2,
        Self::Vit,
        Self::Bit,
        Self::Idefics3,
        Self::SmolVlm,
    ];

    /// The name of the class, as `image_processor_type` has it.
    pub fn class(self) -> &'static str {
        match self {
            Self::Clip => "CLIPImageProcessor",
            Self::Siglip => "SiglipImageProcessor",
            Self::Siglip2 => "Siglip2ImageProcessor",
            Self::Vit => "ViTImageProcessor",
            Self::Bit => "BitImageProcessor",
            Self::Idefics3 => "Idefics3ImageProcessor",
            Self::SmolVlm => "SmolVLMImageProcessor",
        }
    }

    /// The kind of a class name: of the class itself, of its torchvision (`…Fast`) or Pillow
    /// (`…Pil`) variant, or of the `…FeatureExtractor` that it once was.
    pub(super) fn of_class(name: &str) -> Option<Self> {
        match name {
            "CLIPFeatureExtractor" => return Some(Self::Clip),
            "ViTFeatureExtractor" => return Some(Self::Vit),
            _ => {}
        }
        let base = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
        Self::ALL.into_iter().find(|kind| kind.class() == base)
    }

    /// The kind that transformers takes for files that name none, by the processor that they
    /// belong to.
    pub(super) fn of_processor(name: &str) -> Option<Self> {
        Some(match name {
            "CLIPProcessor" | "LlavaProcessor" => Self::Clip,
            "SiglipProcessor" | "PaliGemmaProcessor" => Self::Siglip,
            "Idefics3Processor" => Self::Idefics3,
            "SmolVLMProcessor" => Self::SmolVlm,
            "Siglip2Processor" => Self::Siglip2,
            _ => return None,
        })
    }

    /// Likewise, by the `model_type` of `config.json`.
    pub(super) fn of_model(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "clip" | "llava" => Self::Clip,
            "siglip" | "paligemma" => Self::Siglip,
            "idefics3" => Self::Idefics3,
            "smolvlm" => Self::SmolVlm,
            "siglip2" => Self::Siglip2,
            "vit" => Self::Vit,
            "dinov2" | "dinov2_with_registers" => Self::Bit,
            _ => return None,
        })
    }

    /// Whether the class has a centre crop.
    pub(super) fn crops(self) -> bool {
        matches!(self, Self::Clip | Self::Bit)
    }

    /// What the class does if its file says nothing (transformers 4.57).
    pub fn defaults(self) -> ImageProcessor {
        let half = (HALF, HALF);
        let (resize, filter, crop, statistics) = match self {
            Self::Clip | Self::Bit => (
                Resize::ShortestEdge(224),
                Filter::Bicubic,
                Some((224, 224)),
                (CLIP_MEAN, CLIP_STD),
            ),
            Self::Siglip => {
                (Resize::Exact { height: 224, width: 224 }, Filter::Bicubic, None, half)
            }
            Self::Vit => (Resize::Exact { height: 224, width: 224 }, Filter::Bilinear, None, half),
            Self::Idefics3 | Self::SmolVlm => {
                let tiling = Tiling { longest_edge: Some(4 * 364), tile: 364, split: true };
                (Resize::Tiles(tiling), Filter::Lanczos, None, half)
            }
            Self::Siglip2 => {
                let patching = Patching { patch_size: 16, max_num_patches: 256 };
                (Resize::Patches(patching), Filter::Bilinear, None, half)
            }
        };
        ImageProcessor {
            kind: self,
            resize: Some(resize),
            filter,
            crop,
            rescale: Some(1.0 / 255.0),
            normalize: Some(statistics),
            letterbox: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_by_all_their_names() {
        for kind in Kind::ALL {
            for end in ["", "Fast", "Pil"] {
                assert_eq!(Kind::of_class(&format!("{}{end}", kind.class())), Some(kind));
            }
        }
        assert_eq!(Kind::of_class("ViTFeatureExtractor"), Some(Kind::Vit));
        assert_eq!(Kind::of_class("CLIPFeatureExtractor"), Some(Kind::Clip));
        assert_eq!(Kind::of_class("Siglip2ImageProcessorFastPil"), None);
        assert_eq!(Kind::of_class("DPTImageProcessor"), None);
    }
}
