//! Asking the metadata.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::metadata::Value;
use crate::error::{Fault, damaged, quoted, unsupported};

/// The metadata, which remembers what was asked for.
pub(super) struct Keys {
    map: BTreeMap<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

fn wrong<T>(key: &str, wanted: &str) -> Result<T, Fault> {
    damaged(format!("{} is not {wanted}", quoted(key)))
}

impl Keys {
    pub(super) fn new(map: BTreeMap<String, Value>) -> Self {
        Keys { map, asked: RefCell::default() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.map.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => wrong(key, "a text"),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => wrong(key, "true or false"),
        }
    }

    /// A whole number from 0 up to 4 billion; of a list for each layer, the one that all share.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, Fault> {
        let whole = |value: &Value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::Numbers(list)) => {
                let mut all = list.iter();
                let first = all.next();
                if first.is_some() && all.any(|other| Some(other) != first) {
                    return unsupported(format!(
                        "{} differs from layer to layer, which is not supported",
                        quoted(key)
                    ));
                }
                first.as_ref().and_then(whole)
            }
            Some(value) => whole(value),
        };
        match found.filter(|n| *n <= u64::from(u32::MAX)) {
            Some(n) => Ok(Some(n as usize)),
            None => wrong(key, "a whole number"),
        }
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Fault> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Float(number)) => *number,
            Some(Value::Unsigned(n)) => *n as f64,
            Some(Value::Signed(n)) => *n as f64,
            Some(_) => f64::NAN,
        };
        if number.is_finite() { Ok(Some(number)) } else { wrong(key, "a number") }
    }

    /// A list of texts, taken out.
    pub(super) fn take_texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Fault> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(_) => wrong(key, "a list of texts"),
        }
    }

    /// A list of whole numbers.
    pub(super) fn whole(&self, key: &str) -> Result<Option<Vec<i64>>, Fault> {
        let one = |value: Value| match value {
            Value::Unsigned(n) => i64::try_from(n).ok(),
            Value::Signed(n) => Some(n),
            _ => None,
        };
        self.numbers(key, "a list of whole numbers", one)
    }

    /// A list of numbers that are in order, so no NaN.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, Fault> {
        let one = |value: Value| match value {
            Value::Float(x) if !x.is_nan() => Some(x),
            _ => None,
        };
        self.numbers(key, "a list of numbers", one)
    }

    fn numbers<T>(
        &self,
        key: &str,
        wanted: &str,
        one: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(list)) => {
                let mut all = Vec::with_capacity(list.len());
                for value in list.iter() {
                    match one(value) {
                        Some(value) => all.push(value),
                        None => return wrong(key, wanted),
                    }
                }
                Ok(Some(all))
            }
            Some(_) => wrong(key, wanted),
        }
    }

    /// A key of the architecture that nothing asked for.
    pub(super) fn unknown(&self, prefix: &str) -> Option<&str> {
        let asked = self.asked.borrow();
        let mut own = self.map.keys().filter(|key| key.starts_with(prefix));
        own.find(|key| !asked.contains(*key)).map(String::as_str)
    }
}
