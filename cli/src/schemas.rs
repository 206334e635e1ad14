//! What is known of handlers' configurations without a worker: the schemas of the stock handlers and of manifests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use flowmonkey_core::flow::parse::ConfigSchemas;
use flowmonkey_core::flow::schema::Schema;
use flowmonkey_handlers::{StockPolicy, stock};
use flowmonkey_plumbing::manifest::Manifest;

use crate::embedded::handlers::manifests;
use crate::errors::CliError;

/// The schemas by handler type; none: its configuration is not checked.
#[derive(Debug, Default)]
pub(crate) struct HandlerSchemas(BTreeMap<String, Option<Schema>>);

impl HandlerSchemas {
    /// Those of the stock handlers, and those of the manifest files or directories in `paths`, which take the place of stock
    /// handlers of the same type.
    ///
    /// # Errors
    /// When a manifest cannot be used, or has a `configSchema` that is none.
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self, CliError> {
        let mut schemas = Self::default();
        for handler in stock(StockPolicy::default()) {
            schemas.add(handler.manifest())?;
        }
        for path in paths {
            for handler in manifests(path)? {
                schemas.add(handler.manifest())?;
            }
        }
        Ok(schemas)
    }

    fn add(&mut self, manifest: &Manifest) -> Result<(), CliError> {
        let handler_type = &manifest.handler_type;
        let schema =
            manifest.config_schema.as_ref().map(Schema::compile).transpose().map_err(|error| {
                CliError::Usage(format!("handler `{handler_type}`: `configSchema`: {error}"))
            })?;
        self.0.insert(handler_type.clone(), schema);
        Ok(())
    }
}

impl ConfigSchemas for HandlerSchemas {
    fn config_schema(&self, handler_type: &str) -> Option<&Schema> {
        self.0.get(handler_type)?.as_ref()
    }

    fn handler_types(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
