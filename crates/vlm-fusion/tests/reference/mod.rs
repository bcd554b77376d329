//! Files of xtask/golden/fusion.py, and how a module is held against one.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use vlm_encoders::{Named, checkpoint};
use vlm_nn::ops::MASKED;
use vlm_nn::params::{self, PathStack};
use vlm_store::TensorFiles;

/// What the reference's values may differ by, as a part of the largest.
const TOLERANCE: f32 = 1e-4;

/// Names of outputs and their values.
pub type Outputs = Vec<(&'static str, Tensor<3>)>;

/// A module, the table of its names in the file, and what it makes of the inputs.
pub struct Case<'a, M> {
    pub blank: M,
    pub table: &'a dyn Fn(&str, usize) -> Named,
    pub inputs: &'a [&'a str],
    pub run: &'a dyn Fn(&M, &[Tensor<3>]) -> Outputs,
}

pub struct Golden {
    files: TensorFiles,
    device: Device,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/golden/fusion/{name}.safetensors"));
        Golden { files: TensorFiles::open_file(&path).unwrap(), device: Device::flex().autodiff() }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    fn tensor(&self, name: &str) -> Tensor<3> {
        Tensor::from_data(self.files.read(name).unwrap(), &self.device)
    }

    /// Which places of `in.NAME: [batch, places]` are 1.
    pub fn seen(&self, name: &str) -> Vec<Vec<bool>> {
        let data = self.files.read(&format!("in.{name}")).unwrap();
        let places = data.shape()[1];
        let values: Vec<f32> = data.iter::<f32>().collect();
        values.chunks(places).map(|row| row.iter().map(|x| *x == 1.0).collect()).collect()
    }

    /// What hides the places that are 0, `[batch, 1, places]`.
    pub fn padding(&self, name: &str) -> Tensor<3> {
        let seen = self.seen(name);
        let values: Vec<f32> =
            seen.iter().flatten().map(|seen| if *seen { 0.0 } else { MASKED }).collect();
        let shape = [seen.len(), 1, seen[0].len()];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Holds outputs and gradients against the file's, and gradients against differences.
    pub fn hold<M: Module>(&self, case: &Case<'_, M>) {
        let spare = |name: &str| {
            ["in.", "out.", "loss.", "grad.", "keep."].iter().any(|start| name.starts_with(start))
        };
        checkpoint::check(&case.blank, &self.files, case.table, &spare).unwrap();
        let module = checkpoint::fill(case.blank.clone(), &self.files, case.table, None).unwrap();
        let inputs: Vec<Tensor<3>> = case
            .inputs
            .iter()
            .map(|name| self.tensor(&format!("in.{name}")).require_grad())
            .collect();

        let outputs = self.kept((case.run)(&module, &inputs));
        for (name, output) in &outputs {
            let theirs = self.files.read(&format!("out.{name}")).unwrap();
            close(&format!("out.{name}"), &output.to_data(), &theirs);
        }

        let gradients = self.loss(&outputs).backward();
        let ours = gradients_by_path(&module, &gradients);
        let theirs = |path: &str, rank: usize| {
            let named = (case.table)(path, rank);
            Named { name: format!("grad.{}", named.name), ..named }
        };
        let theirs = checkpoint::fill(case.blank.clone(), &self.files, &theirs, None).unwrap();
        params::read(&theirs, &mut |path, theirs| {
            let ours = ours.get(path).unwrap_or_else(|| panic!("{path} has no gradient"));
            close(&format!("gradient of {path}"), ours, &theirs);
        });
        let mut of_inputs = Vec::new();
        for (name, input) in case.inputs.iter().zip(&inputs) {
            let ours = input.grad(&gradients).unwrap().into_data();
            let theirs = self.files.read(&format!("grad.in.{name}")).unwrap();
            close(&format!("gradient of {name}"), &ours, &theirs);
            of_inputs.push(ours);
        }
        self.differ(case, &module, &inputs, &ours, &of_inputs);
    }

    /// Moves all parameters and inputs at once along a direction.
    fn differ<M: Module>(
        &self,
        case: &Case<'_, M>,
        module: &M,
        inputs: &[Tensor<3>],
        of_parameters: &BTreeMap<String, TensorData>,
        of_inputs: &[TensorData],
    ) {
        let at = |h: f32| -> f64 {
            let moved = params::replace(module.clone(), &mut |path, shape| {
                let old = params::read_one(module, path);
                let new: Vec<f32> = old
                    .iter::<f32>()
                    .enumerate()
                    .map(|(i, x)| x + h * direction(path, i))
                    .collect();
                Ok::<_, std::convert::Infallible>(Some(TensorData::new(new, shape.to_vec())))
            });
            let Ok(moved) = moved;
            let inputs: Vec<Tensor<3>> = inputs
                .iter()
                .zip(case.inputs)
                .map(|(input, name)| {
                    let data = input.to_data();
                    let values: Vec<f32> = data
                        .iter::<f32>()
                        .enumerate()
                        .map(|(i, x)| x + h * direction(name, i))
                        .collect();
                    let data = TensorData::new(values, data.shape().to_vec());
                    Tensor::from_data(data, &self.device)
                })
                .collect();
            // Summed in double, since the differences are small.
            self.kept((case.run)(&moved, &inputs))
                .iter()
                .map(|(name, output)| {
                    let weights = self.files.read(&format!("loss.{name}")).unwrap();
                    let products = output.to_data();
                    let products = products.iter::<f32>().zip(weights.iter::<f32>());
                    products.map(|(y, w)| f64::from(y) * f64::from(w)).sum::<f64>()
                })
                .sum()
        };
        let h = 2e-3;
        let numeric =
            (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * f64::from(h));
        let along = |name: &str, gradient: &TensorData| -> f64 {
            let values = gradient.iter::<f32>().enumerate();
            values.map(|(i, g)| f64::from(g) * f64::from(direction(name, i))).sum()
        };
        let exact = of_parameters.iter().map(|(path, g)| along(path, g)).sum::<f64>()
            + case.inputs.iter().zip(of_inputs).map(|(name, g)| along(name, g)).sum::<f64>();
        assert!(
            (numeric - exact).abs() < 1e-2 * exact.abs().max(1.0),
            "difference {numeric}, gradient {exact}"
        );
    }

    /// Outputs without what the reference says nothing of.
    fn kept(&self, outputs: Outputs) -> Outputs {
        let keep = |name: &str, output: Tensor<3>| {
            let name = format!("keep.{name}");
            if self.files.shape(&name).is_none() {
                return output;
            }
            output * self.tensor(&name)
        };
        outputs.into_iter().map(|(name, output)| (name, keep(name, output))).collect()
    }

    fn loss(&self, outputs: &Outputs) -> Tensor<1> {
        let products = outputs
            .iter()
            .map(|(name, y)| (y.clone() * self.tensor(&format!("loss.{name}"))).sum());
        products.reduce(|a, b| a + b).unwrap()
    }
}

/// A number between −1 and 1 that looks random.
fn direction(name: &str, i: usize) -> f32 {
    let seed: usize = name.bytes().map(usize::from).sum();
    ((i * 7919 + seed * 104_729 + 13) % 2003) as f32 / 1001.0 - 1.0
}

fn gradients_by_path<M: Module>(module: &M, gradients: &Gradients) -> BTreeMap<String, TensorData> {
    struct Reader<'a>(PathStack, &'a Gradients, BTreeMap<String, TensorData>);
    impl ModuleVisitor for Reader<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.1) {
                self.2.insert(self.0.path(), gradient.into_data());
            }
        }
    }
    let mut reader = Reader(PathStack::default(), gradients, BTreeMap::new());
    module.visit(&mut reader);
    reader.2
}

fn close(what: &str, ours: &TensorData, theirs: &TensorData) {
    assert_eq!(ours.shape(), theirs.shape(), "{what}");
    let theirs: Vec<f32> = theirs.iter::<f32>().collect();
    let scale = theirs.iter().fold(1f32, |a, b| a.max(b.abs()));
    for (i, (ours, theirs)) in ours.iter::<f32>().zip(theirs).enumerate() {
        // The other way round a NaN would pass.
        let near = (ours - theirs).abs() <= TOLERANCE * scale;
        assert!(near, "{what}[{i}]: {ours} against {theirs}");
    }
}
