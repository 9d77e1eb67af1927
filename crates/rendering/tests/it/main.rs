//! What the chart, the manifests and skaffold make.

mod chart;
mod choices;
mod compose;
mod overlays;
mod refusals;
mod schemas;
mod skaffold;
mod twins;
