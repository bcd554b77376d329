//! `vlm eval --task few-label`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use vlm_contrastive::few_label::{
    self, Draws, DualPrompts, Material, Method, Prompts, Reading, Source,
};
use vlm_contrastive::joined::{ImagePool, ImageReading};
use vlm_contrastive::{Dual, FeatureCache, Templates, Vectors};
use vlm_datasets::Dataset;
use vlm_train::Progress;

use super::few_table::{Facts, Results};
use crate::output::{self, Usage};

/// Arguments of few-label.
#[derive(clap::Args)]
#[command(next_help_heading = "Of --task few-label")]
pub struct Args {
    /// The set to test on, with the same labels as --data.
    #[arg(long, value_name = "NAME|DIR")]
    test: Option<String>,
    /// Labelled pictures of each class. Settings are chosen on as many more of the training set,
    /// up to 4 a class (see --validation).
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = output::count,
          default_values_t = [1, 2, 4, 8, 16])]
    shots: Vec<usize>,
    /// So many further training pictures without their labels, for the methods that learn from
    /// such; 4000 if no number is given.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "4000",
          value_parser = output::count)]
    unlabelled: Option<usize>,
    /// Methods, the linear probe first in any case: linear-probe, zero-shot, class-mean,
    /// tip-adapter, tip-adapter-f, clip-adapter, coop, supcon, label-propagation, fixmatch.
    /// Without it, all that the model can do but coop, which runs the text tower in each step.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    methods: Vec<String>,
    /// Draws of labelled pictures.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = output::count)]
    seeds: usize,
    /// Validation pictures a class; with 0 each method takes the settings of its paper.
    #[arg(long, value_name = "N")]
    validation: Option<usize>,
    /// Changed views of each training picture, for the methods that want them.
    #[arg(long, value_name = "N", default_value_t = 2)]
    views: usize,
    /// Test on so many pictures only, always the same.
    #[arg(long, value_name = "N", value_parser = output::count)]
    test_limit: Option<usize>,
    /// Leave out classes with fewer training pictures.
    #[arg(long, value_name = "N", value_parser = output::count)]
    min_pictures: Option<usize>,
    /// Let methods learn from the test pictures, too, as unlabelled ones.
    #[arg(long, requires = "unlabelled")]
    transductive: bool,
    /// Read the image tower after this layer (0 is before the first, -1 the last) and not in the
    /// space of the texts.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    layer: Option<i64>,
    /// Tokens that stand for a picture.
    #[arg(long)]
    pool: Option<PoolChoice>,
    /// Where features are kept, so that another call finds them.
    #[arg(long, value_name = "DIR", default_value = "runs/features")]
    features: PathBuf,
    /// Also write results.json, results.md and report.html.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolChoice {
    /// The class token.
    Class,
    /// The mean of the patches.
    Mean,
    /// Both, one after the other.
    ClassMean,
    /// Both, and the largest value of each channel over the patches.
    ClassMeanMax,
}

impl Args {
    /// Refuses arguments that another task would pass over in silence.
    pub fn refuse(&self) -> Result<()> {
        let given = [
            ("--test", self.test.is_some()),
            ("--unlabelled", self.unlabelled.is_some()),
            ("--methods", !self.methods.is_empty()),
            ("--validation", self.validation.is_some()),
            ("--test-limit", self.test_limit.is_some()),
            ("--min-pictures", self.min_pictures.is_some()),
            ("--layer", self.layer.is_some()),
            ("--pool", self.pool.is_some()),
            ("--out", self.out.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Usage(format!("{name} is only of --task few-label")).into()),
            None => Ok(()),
        }
    }

    fn reading(&self) -> Option<ImageReading> {
        if self.layer.is_none() && self.pool.is_none() {
            return None;
        }
        let pool = match self.pool {
            None => ImagePool::Pooled,
            Some(PoolChoice::Class) => ImagePool::Class,
            Some(PoolChoice::Mean) => ImagePool::Mean,
            Some(PoolChoice::ClassMean) => ImagePool::ClassMean,
            Some(PoolChoice::ClassMeanMax) => ImagePool::ClassMeanMax,
        };
        Some(ImageReading { layer: self.layer, pool })
    }

    /// Refuses names of no method.
    fn known(&self) -> Result<()> {
        let all = few_label::all();
        let names: Vec<&str> = all.iter().map(|method| method.name()).collect();
        for name in &self.methods {
            if !names.contains(&name.as_str()) {
                let known = names.join(", ");
                return Err(
                    Usage(format!("--methods: no method `{name}`; there are {known}")).into()
                );
            }
        }
        Ok(())
    }

    /// The methods that are named, or all that a model can do.
    fn methods(&self, shares_space: bool) -> Vec<Box<dyn Method>> {
        let all = few_label::all();
        let probe = all[0].name();
        let named = |method: &str| self.methods.iter().any(|name| name == method);
        all.into_iter()
            .filter(|method| match self.methods.is_empty() {
                true => (shares_space || !method.needs_text()) && !method.needs_prompts(),
                false => named(method.name()) || method.name() == probe,
            })
            .collect()
    }
}

/// A set, by picture and class.
struct Set {
    paths: Vec<PathBuf>,
    truth: Vec<usize>,
}

impl Set {
    /// The pictures of some classes.
    fn of(data: &Dataset, classes: &[String]) -> Result<Set> {
        data.truth()?;
        let places: HashMap<&str, usize> =
            classes.iter().enumerate().map(|(i, class)| (class.as_str(), i)).collect();
        let mut set = Set { paths: vec![], truth: vec![] };
        for sample in &data.samples {
            if let Some(place) = sample.label.as_deref().and_then(|label| places.get(label)) {
                set.paths.push(sample.image.clone());
                set.truth.push(*place);
            }
        }
        Ok(set)
    }
}

/// The labels that samples have, with how many have each, sorted.
fn counted(data: &Dataset) -> Vec<(String, usize)> {
    let mut labels: Vec<&String> = data.samples.iter().filter_map(|s| s.label.as_ref()).collect();
    labels.sort();
    labels.chunk_by(|a, b| a == b).map(|same| (same[0].clone(), same.len())).collect()
}

/// The classes of both sets.
fn classes(train: &Dataset, test: &Dataset, args: &super::Args) -> Result<Vec<String>> {
    let (few, least) = (&args.few, args.few.min_pictures.unwrap_or(1));
    let (told, asked) = (counted(train), counted(test));
    let name = few.test.as_deref().unwrap_or_default();
    if let Some((label, _)) = asked.iter().find(|(label, _)| !told.iter().any(|(l, _)| l == label))
    {
        bail!(
            "{name}: label `{label}` does not occur in {}; both sets need the same labels",
            args.data
        );
    }
    let kept: Vec<String> =
        told.into_iter().filter(|(_, count)| *count >= least).map(|(label, _)| label).collect();
    if let Some(label) = kept.iter().find(|label| !asked.iter().any(|(l, _)| l == *label)) {
        bail!(
            "{name}: no picture of class `{label}`, which {} has; both sets need the same labels",
            args.data
        );
    }
    match kept.len() {
        0 | 1 => {
            bail!("{}: {} class left; two are the least to choose among", args.data, kept.len())
        }
        _ => Ok(kept),
    }
}

/// Features with a progress line.
fn embed(source: &Source, paths: &[PathBuf], view: usize, what: &str) -> Result<Vectors> {
    let shown = std::cell::RefCell::new((None::<Progress>, 0usize));
    let told = |done: usize, of: usize| {
        let (progress, before) = &mut *shown.borrow_mut();
        if progress.is_none() && done < of {
            *progress = Some(Progress::new(of as u64, done as u64, what));
        }
        if let Some(progress) = progress {
            progress.tick(done as u64, done.saturating_sub(*before), &[]);
        }
        *before = done;
    };
    source.features(paths, view as u64, &told).map_err(|error| anyhow!("{error}"))
}

/// Measures the methods.
pub fn run(all: &super::Args, templates: &Templates, device: &Device) -> Result<()> {
    let args = &all.few;
    let Some(test_name) = &args.test else {
        return Err(Usage("--task few-label needs --test, the set to test on".into()).into());
    };
    args.known()?;
    let model = all.model()?;
    if let Some(out) = &args.out {
        // Before the work, whose results would have no place.
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let mut shots = args.shots.clone();
    shots.sort_unstable();
    shots.dedup();
    let (train, test) = (Dataset::open(&all.data, "train")?, Dataset::open(test_name, "test")?);
    let classes = classes(&train, &test, all)?;
    let (train, mut test) = (Set::of(&train, &classes)?, Set::of(&test, &classes)?);
    if let Some(limit) = args.test_limit {
        let kept = Draws::limit(limit, test.paths.len());
        test.paths = kept.iter().map(|i| test.paths[*i].clone()).collect();
        test.truth = kept.iter().map(|i| test.truth[*i]).collect();
    }
    let total = train.paths.len();
    let draws = Draws {
        truth: &train.truth,
        classes: &classes,
        validation: args.validation,
        unlabelled: args.unlabelled.unwrap_or(0),
    };
    let seeds = args.seeds as u64;
    // All draws before any picture is looked at: too small a class should not cost an hour.
    let mut drawn = vec![false; train.paths.len()];
    for (shots, seed) in shots.iter().flat_map(|shots| (0..seeds).map(move |seed| (*shots, seed))) {
        let draw = draws.draw(shots, seed)?;
        for picture in draw.labelled.into_iter().chain(draw.validation).chain(draw.pool) {
            drawn[picture] = true;
        }
    }
    let pictures: Vec<usize> = (0..drawn.len()).filter(|picture| drawn[*picture]).collect();
    let paths: Vec<PathBuf> = pictures.iter().map(|i| train.paths[*i].clone()).collect();

    let reading = Reading::open(model, args.reading(), device)?;
    let shares_space = matches!(reading, Reading::Shared(_));
    let methods = args.methods(shares_space);
    if let Some(method) = methods.iter().find(|method| method.needs_text() && !shares_space) {
        let error = vlm_contrastive::Error::NoText { method: method.name() };
        return Err(output::blame(model)(error).context(model.display().to_string()));
    }
    let cache = FeatureCache::new(&args.features);
    let source = Source { reading, model: model.to_owned(), cache };
    let views = if methods.iter().any(|method| method.uses_views()) { args.views } else { 0 };
    let train = (0..=views)
        .map(|view| {
            let what = if view == 0 { "training pictures" } else { "changed views" };
            embed(&source, &paths, view, what)
        })
        .collect::<Result<Vec<_>>>()?;
    let seen = embed(&source, &test.paths, 0, "test pictures")?;
    let text = source.reading.text(&classes, templates).map_err(output::blame(model))?;
    let prompts = match methods.iter().any(|method| method.needs_prompts()) {
        true => Some(prompts(model, &classes, device)?),
        false => None,
    };
    let material = Material {
        draws,
        pictures: &pictures,
        train: &train,
        test: &seen,
        answers: &test.truth,
        text,
        prompts: prompts.as_ref().map(|prompts| prompts as &dyn Prompts),
        transductive: args.transductive,
        device,
    };
    let mut progress: Option<Progress> = None;
    let cells =
        few_label::run(&material, &methods, &shots, seeds, &mut |_, done, of| {
            progress
                .get_or_insert_with(|| Progress::new(of as u64, 0, "few-label").unit("fit"))
                .tick(done as u64, 1, &[]);
        })?;
    drop(progress);
    let validation = match args.validation {
        None => "as many as labels, up to 4 a class".to_owned(),
        Some(0) => "none; the settings of the papers".to_owned(),
        Some(count) => format!("{count} a class"),
    };
    let results = Results {
        facts: Facts {
            model: model.display().to_string(),
            reading: args.reading(),
            data: all.data.clone(),
            test: test_name.clone(),
            classes: classes.len(),
            test_pictures: test.paths.len(),
            unlabelled: args.unlabelled.unwrap_or(0).min(total),
            transductive: args.transductive,
            validation,
            views,
            seeds: args.seeds,
        },
        shots,
        cells,
    };
    if let Some(out) = &args.out {
        results.write(out)?;
    }
    if all.json {
        return output::json(&results.document());
    }
    output::line(&results.text())
}

/// The text tower, open for gradients.
fn prompts(model: &Path, classes: &[String], device: &Device) -> Result<DualPrompts> {
    let dual = Dual::open(model, &device.clone().autodiff())?;
    Ok(DualPrompts::new(dual, classes)?)
}
