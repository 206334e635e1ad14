//! Opening an object store by its URL.

use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;

use super::{Objects, ObjectsError, RETRIES_MAX, RETRY_TIME};

/// What there may be.
const FORMS: &str = "give file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX, without user and query";

impl Objects {
    /// In a folder, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(path: &std::path::Path) -> Result<Self, ObjectsError> {
        let wrong = |reason: String| ObjectsError::Open { url: path.display().to_string(), reason };
        std::fs::create_dir_all(path).map_err(|error| wrong(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| wrong(error.to_string()))?;
        let store = Arc::new(store.with_fsync(true).with_automatic_cleanup(true));
        Ok(Self { folder: Some(store.clone()), ..Self::new(store) })
    }

    /// As [`Self::open_with`], with the variables of this process's environment.
    ///
    /// # Errors
    /// When it is no such URL, or the environment does not fit it.
    pub fn open(url: &str) -> Result<Self, ObjectsError> {
        let variables = std::env::vars_os();
        Self::open_with(
            url,
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// By its URL: `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`. What else there is to
    /// know (credentials, region, endpoint) comes from the environment variables that the tools of each cloud use. Nothing
    /// is sent yet: the object store may be away.
    ///
    /// # Errors
    /// When it is no such URL, or the environment does not fit it.
    pub fn open_with(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ObjectsError> {
        let shown = shown(url);
        let wrong = |reason: String| {
            // Reasons may quote the URL.
            let reason = if shown == url { reason } else { FORMS.into() };
            ObjectsError::Open { url: shown.clone(), reason }
        };
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|error| wrong(error.to_string()))?;
        // An error means that the program has chosen its cryptography already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let failed = |error: object_store::Error| wrong(error.to_string());
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIME,
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the library may learn other schemes")]
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                let path = parsed.to_file_path().map_err(|()| wrong("it is not a path".into()))?;
                return Self::folder(&path);
            }
            ObjectStoreScheme::AmazonS3 => {
                let builder = of(variables, "AWS_", AmazonS3Builder::new(), AmazonS3Builder::with_config);
                let builder = builder.with_url(url).with_retry(retry);
                Arc::new(builder.build().map_err(failed)?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = of(
                    variables,
                    "GOOGLE_",
                    GoogleCloudStorageBuilder::new(),
                    GoogleCloudStorageBuilder::with_config,
                );
                let builder = builder.with_url(url).with_retry(retry);
                Arc::new(builder.build().map_err(failed)?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder =
                    of(variables, "AZURE_", MicrosoftAzureBuilder::new(), MicrosoftAzureBuilder::with_config);
                let builder = builder.with_url(url).with_retry(retry);
                Arc::new(builder.build().map_err(failed)?)
            }
            _other => return Err(wrong(FORMS.into())),
        };
        Ok(Self::new(if prefix.as_ref().is_empty() {
            store
        } else {
            Arc::new(PrefixStore::new(store, prefix))
        }))
    }
}

/// The builder with the settings among the variables.
fn of<B, K: FromStr>(
    variables: impl IntoIterator<Item = (String, String)>,
    prefix: &str,
    builder: B,
    set: impl Fn(B, K, String) -> B,
) -> B {
    variables.into_iter().filter(|(name, _)| name.starts_with(prefix)).fold(
        builder,
        |builder, (name, value)| {
            match name.to_ascii_lowercase().parse() {
                Ok(key) => set(builder, key, value),
                // Variables of other programs of that cloud.
                Err(_) => builder,
            }
        },
    )
}

/// The URL without what may be a password.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some(_)) => "…".into(),
        (_, None) => url.split('?').next().unwrap_or(url).into(),
    }
}
