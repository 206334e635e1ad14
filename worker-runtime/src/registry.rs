//! Which handlers a worker has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowmonkey_plumbing::manifest::{Manifest, ManifestError};
use semver::Version;

use crate::handler::Handler;

/// Why a handler was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is such a handler already.
    #[error("the handler type `{handler_type}` is registered twice")]
    Duplicate {
        /// The type.
        handler_type: String,
    },
    /// The engine itself carries out such steps.
    #[error("the handler type `{handler_type}` is reserved: the engine carries it out itself")]
    Reserved {
        /// The type.
        handler_type: String,
    },
    /// The type cannot name a queue.
    #[error("the handler type `{handler_type}` is not valid: use a to z, 0 to 9, `.`, `_` and `-`")]
    InvalidType {
        /// The type.
        handler_type: String,
    },
    /// The manifest contradicts itself.
    #[error("the manifest of handler `{handler_type}`: {source}")]
    Manifest {
        /// The type.
        handler_type: String,
        /// How.
        #[source]
        source: ManifestError,
    },
    /// The version is not `SemVer`.
    #[error("the version `{version}` of handler `{handler_type}` is not a semantic version")]
    InvalidVersion {
        /// The type.
        handler_type: String,
        /// What the manifest says.
        version: String,
        /// Why.
        #[source]
        source: semver::Error,
    },
}

/// Whether a handler type can name a queue.
pub(crate) fn is_valid_type(handler_type: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    !handler_type.is_empty() && handler_type.bytes().all(allowed)
}

/// Handlers by their type.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: BTreeMap<String, Registered>,
    reserved: BTreeSet<String>,
}

/// A handler with its parsed version.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) version: Version,
}

impl Registry {
    /// No handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No handlers, and none of `types` can be registered: the types that the engine carries out itself.
    #[must_use]
    pub fn with_reserved<T: Into<String>>(types: impl IntoIterator<Item = T>) -> Self {
        Self { handlers: BTreeMap::new(), reserved: types.into_iter().map(Into::into).collect() }
    }

    /// Adds a handler.
    ///
    /// # Errors
    /// When its type is taken, reserved or not valid, its version is not `SemVer`, or its manifest contradicts itself.
    pub fn register(&mut self, handler: Arc<dyn Handler>) -> Result<(), RegistryError> {
        let handler_type = handler.manifest().handler_type.clone();
        if self.handlers.contains_key(&handler_type) {
            return Err(RegistryError::Duplicate { handler_type });
        }
        self.override_with(handler).map(|_none| ())
    }

    /// Adds a handler in place of the one that has its type, which is returned.
    ///
    /// # Errors
    /// When its type is reserved or not valid, its version is not `SemVer`, or its manifest contradicts itself.
    pub fn override_with(
        &mut self,
        handler: Arc<dyn Handler>,
    ) -> Result<Option<Arc<dyn Handler>>, RegistryError> {
        let Manifest { handler_type, version, .. } = handler.manifest();
        let handler_type = handler_type.clone();
        if self.reserved.contains(&handler_type) {
            return Err(RegistryError::Reserved { handler_type });
        }
        if !is_valid_type(&handler_type) {
            return Err(RegistryError::InvalidType { handler_type });
        }
        handler
            .manifest()
            .check()
            .map_err(|source| RegistryError::Manifest { handler_type: handler_type.clone(), source })?;
        let version = Version::parse(version).map_err(|source| RegistryError::InvalidVersion {
            handler_type: handler_type.clone(),
            version: version.clone(),
            source,
        })?;
        let before = self.handlers.insert(handler_type, Registered { handler, version });
        Ok(before.map(|registered| registered.handler))
    }

    /// The handler of a type.
    #[must_use]
    pub fn get(&self, handler_type: &str) -> Option<&Arc<dyn Handler>> {
        self.handlers.get(handler_type).map(|registered| &registered.handler)
    }

    /// The manifests, by type.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> + Clone {
        self.handlers.values().map(|registered| registered.handler.manifest())
    }

    /// Keeps only the handlers of these types.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.handlers.retain(|handler_type, _| keep(handler_type));
    }

    /// Whether there are no handlers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }

    pub(crate) fn registered(&self, handler_type: &str) -> Option<&Registered> {
        self.handlers.get(handler_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{Completion, Failure, Task};

    struct Named(Manifest);

    #[async_trait::async_trait]
    impl Handler for Named {
        fn manifest(&self) -> &Manifest {
            &self.0
        }

        async fn run(&self, _task: &Task) -> Result<Completion, Failure> {
            Ok(Completion::Success(None))
        }
    }

    fn named(handler_type: &str, version: &str) -> Arc<dyn Handler> {
        let manifest =
            Manifest { handler_type: handler_type.into(), version: version.into(), ..Manifest::default() };
        Arc::new(Named(manifest))
    }

    #[test]
    fn a_second_handler_of_a_type_is_refused_but_may_override() {
        let mut registry = Registry::new();
        registry.register(named("greet", "1.0.0")).unwrap();
        let twice = registry.register(named("greet", "2.0.0"));
        assert!(matches!(twice, Err(RegistryError::Duplicate { handler_type }) if handler_type == "greet"));
        assert_eq!(registry.get("greet").unwrap().manifest().version, "1.0.0");
        let before = registry.override_with(named("greet", "2.0.0")).unwrap();
        assert_eq!(before.unwrap().manifest().version, "1.0.0");
        assert_eq!(
            registry.manifests().map(|manifest| manifest.version.as_str()).collect::<Vec<_>>(),
            ["2.0.0"]
        );
    }

    #[test]
    fn reserved_and_malformed_handlers_are_refused() {
        let mut registry = Registry::with_reserved(["parallel"]);
        let refused = |result: Result<(), RegistryError>| result.unwrap_err().to_string();
        assert!(refused(registry.register(named("parallel", "1.0.0"))).contains("reserved"));
        assert!(refused(registry.register(named("Greet", "1.0.0"))).contains("not valid"));
        assert!(refused(registry.register(named("", "1.0.0"))).contains("not valid"));
        assert!(refused(registry.register(named("greet", "1"))).contains("semantic version"));
        assert!(registry.is_empty());
    }
}
