//! Skipped attentions taken up by the feed-forwards behind them.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use vlm_nn::adapter::{self, NormOf, Part};
use vlm_nn::params;
use vlm_nn::{BlockConfig, NormKind, NormPlace};

use super::{Arm, stack_of_text};
use crate::{Adapter, AnyMethod, Error};

/// Lets feed-forwards take up what stands in place of the attentions before them (EAS): one map in place of
/// three, for inference. What the model says stays the same, for one text or many. `blocks` are the choices of the
/// blocks that it hangs in.
///
/// # Errors
/// [`Error::Setting`] if the adapter skips no attentions; if it weighs two maps by what it sees (`router`), since
/// they would be other maps for each text; if a norm stands between attention and feed-forward, or a feed-forward
/// has four bits or an adapter of its own.
pub fn fold<M: Module>(model: M, adapter: &Adapter, blocks: &BlockConfig) -> Result<M, Error> {
    let wrong = |reason: &str| Error::Setting(reason.to_owned());
    let AnyMethod::Eas(eas) = &adapter.method else {
        return Err(wrong("only eas can be folded; other adapters are merged"));
    };
    if eas.router {
        return Err(wrong(
            "this adapter weighs two maps anew for each token (router), so that no one map is exact for a text, \
             let alone a batch; use it unfolded, or train it with router=false",
        ));
    }
    if blocks.place == NormPlace::Post {
        return Err(wrong("a norm stands between attention and feed-forward, which is no map"));
    }
    let from_one = blocks.norm == NormKind::RmsFromOne;
    let (model, mut all) = adapter::take(model);
    let known: BTreeMap<String, Vec<usize>> =
        params::list(&model).into_iter().map(|param| (param.path, param.shape)).collect();
    let has_parts = all.iter().filter(|(_, adapters)| !adapters.parts.is_empty());
    let busy: BTreeSet<String> = has_parts.map(|(path, _)| path.clone()).collect();
    let device = model.devices().into_iter().next().unwrap_or_default();
    let mut new: BTreeMap<String, TensorData> = BTreeMap::new();
    // What stands in place of others has no feed-forward behind it, or one of another kind; it stays as it is.
    let first = stack_of_text(&adapter.sites);
    for site in adapter.sites.iter().filter(|site| first.fits(site)) {
        let Some(arm) = Arm::of(site).filter(|arm| !arm.cross) else { continue };
        let block = format!("{}.{}", arm.stack, arm.block);
        let Some(adapters) = all.get_mut(&site.path) else { continue };
        let mut own = adapters.parts.iter_mut().filter(|named| named.name == adapter.name);
        let Some(Part::Bypass(part)) = own.next().map(|named| &mut named.part) else { continue };
        let Some(said) = part.instead.take() else { continue };
        let maps = ["up", "gate"].map(|map| format!("{block}.feed_forward.{map}.weight"));
        let maps: Vec<&String> = maps.iter().filter(|path| known.contains_key(*path)).collect();
        if let Some(path) = maps.iter().find(|path| busy.contains(**path)) {
            return Err(wrong(&format!("`{path}` has an adapter of its own; merge that first")));
        }
        if let Some(path) = maps.iter().find(|path| known[**path].iter().product::<usize>() <= 1) {
            return Err(wrong(&format!("`{path}` has four bits, which cannot take anything up")));
        }
        let matrix =
            |path: &String| Tensor::<2>::from_data(params::read_one(&model, path), &device);
        let vector =
            |path: String| Tensor::<1>::from_data(params::read_one(&model, &path), &device);
        let norm = |end: &str| format!("{block}.norm2.{end}");
        // What the feed-forward's norm does to what is said, where it is not that norm's rows already.
        let stretch = (said.norm == NormOf::Attention).then(|| {
            let factors = vector(norm("weight")) + if from_one { 1.0 } else { 0.0 };
            (factors, known.contains_key(&norm("bias")).then(|| vector(norm("bias"))))
        });
        let weights: Vec<Tensor<2>> = maps.iter().map(|path| matrix(path)).collect();
        let Some(fold) = said.folded(&weights, stretch) else { continue };
        part.folded = Some(fold.left);
        let folded = maps.iter().zip(fold.weights);
        new.extend(folded.map(|(path, weight)| ((*path).clone(), weight.into_data())));
    }
    let model = params::replace(model, &mut |path, _| Ok::<_, Error>(new.remove(path)))?;
    Ok(adapter::put(model, all))
}
