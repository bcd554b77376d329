//! The backends of Burn, and what cargo and the system need for each.

use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::python::Venv;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Backend {
    /// CPU, pure Rust: needs nothing else
    #[default]
    Flex,
    /// GPU through WebGPU
    Wgpu,
    /// GPU through Vulkan
    Vulkan,
    /// Apple GPU
    Metal,
    /// libtorch: CUDA or CPU; run `cargo xtask setup tch` once
    Tch,
    /// NVIDIA GPU through CubeCL
    Cuda,
    /// AMD GPU through CubeCL
    Rocm,
}

impl Backend {
    /// Its name, which is also that of its cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Flex => "flex",
            Backend::Wgpu => "wgpu",
            Backend::Vulkan => "vulkan",
            Backend::Metal => "metal",
            Backend::Tch => "tch",
            Backend::Cuda => "cuda",
            Backend::Rocm => "rocm",
        }
    }

    /// Flags that make cargo build the workspace with this backend.
    ///
    /// `vlm-cli` hands the feature down to `vlm-nn`, and features are joined over a workspace,
    /// so every crate sees it. Flex is the default; asking for it by flags would make cargo
    /// think of another build.
    pub fn flags(self) -> Vec<String> {
        match self {
            Backend::Flex => Vec::new(),
            other => vec![
                "--no-default-features".into(),
                "--features".into(),
                format!("vlm-cli/{}", other.name()),
            ],
        }
    }

    /// Gives a command the environment that the backend is built and run in.
    ///
    /// # Errors
    /// For `tch`, if there is no libtorch.
    pub fn prepare(self, command: &mut Command) -> Result<()> {
        if self != Backend::Tch || own_libtorch() {
            return Ok(());
        }
        let Some(venv) = Venv::existing().filter(Venv::has_libtorch) else {
            bail!(
                "no libtorch in .venv; run `cargo xtask setup tch`, or set LIBTORCH to the folder of your own"
            );
        };
        command.envs(venv.libtorch_environment()?);
        Ok(())
    }
}

/// Whether the user has said where libtorch is; then that is left alone.
pub fn own_libtorch() -> bool {
    ["LIBTORCH", "LIBTORCH_USE_PYTORCH"].iter().any(|name| std::env::var_os(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_features_of_the_binary() {
        let manifest = crate::shell::root().join("crates/vlm-cli/Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        for backend in Backend::value_variants() {
            let name = backend.name();
            assert_eq!(backend.to_possible_value().unwrap().get_name(), name);
            assert!(manifest.contains(&format!("\n{name} = [")), "vlm-cli has no feature `{name}`");
        }
    }

    #[test]
    fn the_default_backend_is_the_default_build() {
        assert_eq!(Backend::default().flags(), [""; 0]);
        assert_eq!(Backend::Tch.flags()[2], "vlm-cli/tch");
    }
}
