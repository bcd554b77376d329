//! Pairs as a joined encoder trains on them.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use vlm_encoders::image::Pixels;
use vlm_encoders::{Pooling, TextModel, TextSpec, batch_pixels, batch_tokens, text, text_mask};

use super::{ImageReading, JoinedModel};
use crate::loss::normalize;
use crate::{Pairs, Scored};
use vlm_train::Vectors;

/// What turns a trained tower's states into vectors.
#[derive(Debug)]
pub(super) struct Reader {
    pub image: ImageReading,
    pub pooling: Pooling,
    pub spec: TextSpec,
}

/// Pairs, as vectors of locked towers or as what trained ones look at.
pub struct JoinedBatch {
    pub(super) images: Images,
    pub(super) texts: Texts,
    pub(super) picture_groups: Vec<u32>,
    pub(super) text_groups: Vec<u32>,
    pub(super) reader: Arc<Reader>,
}

pub(super) enum Images {
    Vectors(Vectors),
    Pixels(Vec<Pixels>),
}

pub(super) enum Texts {
    Vectors(Vectors),
    Tokens(text::Batch),
}

pub(super) fn rows(vectors: &Vectors, from: usize, to: usize, device: &Device) -> Tensor<2> {
    let width = vectors.width;
    let values = vectors.values[from * width..to * width].to_vec();
    Tensor::from_data(TensorData::new(values, [to - from, width]), device)
}

impl Scored for JoinedModel {
    fn log_scale(&self) -> Tensor<1> {
        self.logit_scale.val()
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.logit_bias.as_ref().map(Param::val)
    }
}

impl Pairs<JoinedModel> for JoinedBatch {
    fn groups(&self) -> (&[u32], &[u32]) {
        (&self.picture_groups, &self.text_groups)
    }

    fn image_features(
        &self,
        model: &JoinedModel,
        from: usize,
        to: usize,
        device: &Device,
    ) -> Tensor<2> {
        let x = match (&self.images, &model.vision) {
            (Images::Vectors(vectors), _) => rows(vectors, from, to, device),
            (Images::Pixels(pixels), Some(tower)) => {
                let pixels = batch_pixels(&pixels[from..to], device);
                let read = self.reader.image.of_tower(&tower.vision, pixels);
                read.unwrap_or_else(|| unreachable!("the reading was tried before"))
            }
            (Images::Pixels(_), None) => unreachable!("pixels are for a trained tower"),
        };
        normalize(model.image_head.forward(x))
    }

    fn text_features(
        &self,
        model: &JoinedModel,
        from: usize,
        to: usize,
        device: &Device,
    ) -> Tensor<2> {
        let x = match (&self.texts, &model.text) {
            (Texts::Vectors(vectors), _) => rows(vectors, from, to, device),
            (Texts::Tokens(batch), Some(tower)) => {
                self.reader.read(tower, batch.rows_of(from..to), device)
            }
            (Texts::Tokens(_), None) => unreachable!("tokens are for a trained tower"),
        };
        normalize(model.text_head.forward(x))
    }
}

impl Reader {
    pub fn read(&self, tower: &TextModel, batch: text::Batch, device: &Device) -> Tensor<2> {
        let (ids, places) = batch_tokens(&batch, self.spec.pool, device);
        let states = tower.text.states(ids, Some(places), text_mask(&batch, device), false);
        self.pooling.features(tower, &states, &batch)
    }
}
