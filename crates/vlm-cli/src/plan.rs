//! `vlm plan`.

use std::path::PathBuf;

use anyhow::Result;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;
use serde::Serialize;
use vlm_encoders::{DualFolder, Encoder, TextFolder, TextSpec, VisionFolder, VisionSpec, Weights};
use vlm_nn::params::{self, ParamInfo};
use vlm_peft::{Adapter, AnyMethod, Error, Load, Names, Trained, cost};

use crate::adapter::AdapterConfig;
use crate::folder::{AnyFolder, Change};
use crate::methods;
use crate::output::{self, Usage};

/// Arguments of `vlm plan`.
#[derive(clap::Args)]
pub struct Args {
    /// The model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What there is, such as 8GiB, 900MB or 6e9.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<f64>,
    /// Rows of a step; of a dual encoder, pairs.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = output::count)]
    batch: usize,
    /// Tokens of a row, those of its picture among them [default: 128; of a dual encoder, all that its texts
    /// may have].
    #[arg(long, value_name = "N", value_parser = output::count)]
    tokens: Option<usize>,
    /// Tokens of a row that are learned, of a model that writes texts.
    #[arg(long, value_name = "N", default_value_t = 16)]
    answer: usize,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A number of bytes with its unit.
fn bytes(text: &str) -> Result<f64, String> {
    let at = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    // An exponent is no unit.
    let (number, unit) = if text.parse::<f64>().is_ok() { (text, "") } else { text.split_at(at) };
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        _ => return Err(format!("`{unit}` is no unit; write 8GiB, 900MB or a number")),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number * factor),
        _ => Err(format!("`{number}` is no number above 0")),
    }
}

/// What training with a method takes.
#[derive(Serialize)]
pub struct Row {
    /// The method.
    pub method: &'static str,
    /// Values that are trained.
    pub trained_values: usize,
    /// Values of the model.
    pub values: usize,
    weights_bytes: f64,
    learned_bytes: f64,
    kept_bytes: f64,
    /// The most at one time.
    pub peak_bytes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
}

/// The size of a step.
pub struct Step {
    /// Rows, or pairs.
    pub batch: usize,
    /// Tokens of a row, if they are not the model's own choice.
    pub tokens: Option<usize>,
    /// Of a model that writes texts, those that are learned.
    pub answer: usize,
}

/// Tells what training with each method takes.
///
/// # Errors
/// If the model cannot be read.
pub fn run(args: &Args, device: &Device) -> Result<()> {
    let mut folder = AnyFolder::open_weights(&args.model, &device.clone().autodiff())?;
    let step = Step { batch: args.batch, tokens: args.tokens, answer: args.answer };
    let mut rows: Vec<Row> = rows(&mut folder, &step)?.into_iter().flatten().collect();
    for row in &mut rows {
        row.fits = args.memory.map(|memory| row.peak_bytes <= memory);
    }
    if args.json {
        return output::json(&rows);
    }
    output::line(&format!(
        "{:<10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "method", "trains", "weights", "learned", "kept", "peak"
    ))?;
    for row in rows {
        let size = |bytes: f64| output::size(bytes as u64);
        let fits = match row.fits {
            Some(true) => "  fits",
            Some(false) => "  too much",
            None => "",
        };
        output::line(&format!(
            "{:<10} {:>10} {:>10} {:>10} {:>10} {:>10}{fits}",
            row.method,
            row.trained_values,
            size(row.weights_bytes),
            size(row.learned_bytes),
            size(row.kept_bytes),
            size(row.peak_bytes)
        ))?;
    }
    Ok(())
}

/// What each method takes, in their order; `None` for those that do not fit the model.
///
/// # Errors
/// If there are more tokens to be learned than tokens.
pub fn rows(folder: &mut AnyFolder, step: &Step) -> Result<Vec<Option<Row>>> {
    let (loads, logits) = loads(folder, step)?;
    let mut rows = Vec::new();
    for method in &methods::ALL {
        let config = method.config()?;
        let config = match (config, &*folder) {
            (Some(config), AnyFolder::Generative(folder)) => {
                match config.for_plan(&folder.plan, folder.images.output_size()) {
                    Ok(config) => Some(config),
                    // It has no place in this model.
                    Err(_) => {
                        rows.push(None);
                        continue;
                    }
                }
            }
            (config, _) => config,
        };
        // The image tower of a model that speaks is left as it is.
        let locked = matches!(folder, AnyFolder::Generative(_)).then_some("vision.");
        let batch = step.batch;
        let mut planning =
            Planning { config, locked, loads: &loads, batch, logits, values: 0, cost: None };
        folder.change(&mut planning)?;
        let values = planning.values;
        rows.push(planning.cost.map(|(trained_values, cost)| Row {
            method: method.name,
            trained_values,
            values,
            weights_bytes: cost.weights,
            learned_bytes: cost.learned,
            kept_bytes: cost.kept,
            peak_bytes: cost.peak,
            fits: None,
        }));
    }
    Ok(rows)
}

/// The stacks that training runs through, and the shape of the logits.
fn loads(folder: &AnyFolder, step: &Step) -> Result<(Vec<Load>, [usize; 2])> {
    let of_text = |text: &TextSpec, tokens: usize| Load {
        stack: "text.stack.blocks.".to_owned(),
        blocks: text.blocks.clone(),
        tokens: step.batch * tokens,
    };
    let of_vision = |vision: &VisionSpec| Load {
        stack: "vision.stack.blocks.".to_owned(),
        blocks: vec![vision.block.clone(); vision.layers],
        tokens: step.batch * vision.tokens(),
    };
    let text = match folder {
        AnyFolder::Generative(folder) => &folder.plan.spec.text,
        AnyFolder::Encoder(Encoder::Text(TextFolder { plan, .. }))
        | AnyFolder::Weights(Weights::Text(plan, _)) => &plan.spec,
        AnyFolder::Encoder(Encoder::Dual(DualFolder { plan, .. }))
        | AnyFolder::Weights(Weights::Dual(plan, _)) => {
            let (vision, text) = (&plan.spec.vision, &plan.spec.text);
            let tokens = step.tokens.unwrap_or(text.context);
            return Ok((vec![of_vision(vision), of_text(text, tokens)], [step.batch; 2]));
        }
        AnyFolder::Encoder(Encoder::Vision(VisionFolder { plan, .. }))
        | AnyFolder::Weights(Weights::Vision(plan, _)) => {
            return Ok((vec![of_vision(&plan.spec)], [0; 2]));
        }
    };
    let tokens = step.tokens.unwrap_or(128);
    if step.answer > tokens {
        return Err(Usage("--answer is more than --tokens".into()).into());
    }
    Ok((vec![of_text(text, tokens)], [step.batch * step.answer, text.vocabulary]))
}

/// Tells what one method takes.
struct Planning<'a> {
    config: Option<AdapterConfig>,
    /// The beginning of the paths that are left as they are.
    locked: Option<&'static str>,
    loads: &'a [Load],
    batch: usize,
    logits: [usize; 2],
    /// Values of the model.
    values: usize,
    cost: Option<(usize, vlm_peft::Cost)>,
}

impl Change for Planning<'_> {
    fn change<M: Module + ModuleDisplay>(
        &mut self,
        model: M,
        names: &Names<'_>,
    ) -> Result<M, Error> {
        let all = values(&model, &|_| true);
        self.values = all;
        let Some(config) = &self.config else {
            let locked = |path: &str| self.locked.is_some_and(|start| path.starts_with(start));
            let trained = values(&model, &|param| !locked(&param.path));
            let weights = 4.0 * all as f64;
            let cost = cost(weights, trained, self.loads, Trained::Full, self.logits);
            self.cost = Some((trained, cost));
            return Ok(model);
        };
        let Some((adapted, adapter)) = tried(config, &model, names, self.locked)? else {
            return Ok(model);
        };
        let trained = values(&adapted, &|param| param.trainable);
        let in_blocks = |param: &ParamInfo| {
            self.loads.iter().any(|load| param.path.starts_with(&load.stack))
                && param.path.ends_with(".weight")
                && param.shape.len() == 2
        };
        // Learned tokens in front are tokens like others.
        let front = match &config.method {
            AnyMethod::Prompt(prompt) => prompt.tokens * self.batch,
            _ => 0,
        };
        let longer = |load: &Load| {
            let more = if load.stack.starts_with("text.") { front } else { 0 };
            Load { tokens: load.tokens + more, ..load.clone() }
        };
        let loads: Vec<Load> = self.loads.iter().map(longer).collect();
        let packed = if config.four_bit.is_some() { values(&model, &in_blocks) } else { 0 };
        let weights = 4.0 * (all - packed) as f64 + 4.127 / 8.0 * packed as f64;
        let how = Trained::Adapter(&config.method, &adapter.sites);
        self.cost = Some((trained, cost(weights, trained, &loads, how, self.logits)));
        Ok(model)
    }
}

/// A model with an adapter on it, but not where paths begin with what is locked; `None` if the model has
/// no place for it, as one without texts has none for rows in front of them.
///
/// # Errors
/// As [`AdapterConfig::hung`].
fn tried<M: Module>(
    config: &AdapterConfig,
    model: &M,
    names: &Names<'_>,
    locked: Option<&str>,
) -> Result<Option<(M, Adapter)>, Error> {
    let locked = |path: &str| locked.is_some_and(|start| path.starts_with(start));
    let names = |path: &str, rank: usize| names(path, rank).filter(|_| !locked(path));
    match config.hung(model.clone(), "tried", &names, 0) {
        Ok(both) => Ok(Some(both)),
        Err(Error::NoTarget { .. } | Error::Setting(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many values the chosen parameters have.
fn values<M: Module>(model: &M, chosen: &dyn Fn(&ParamInfo) -> bool) -> usize {
    let all = params::list(model).into_iter().filter(|param| chosen(param));
    all.map(|param| param.shape.iter().product::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_unit() {
        assert_eq!(bytes("8GiB"), Ok(8.0 * 1024f64.powi(3)));
        assert_eq!(bytes("900MB"), Ok(9e8));
        assert_eq!(bytes("6e9"), Ok(6e9));
        assert!(bytes("8 apples").is_err() && bytes("-1").is_err() && bytes("GiB").is_err());
    }
}
