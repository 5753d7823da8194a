//! [`Metric`]: one number that a measurement returns.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    #[serde(rename = "metric")]
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) value: f64,
}

impl Metric {
    pub(crate) fn new(name: &str, unit: &str, value: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), value }
    }
}
