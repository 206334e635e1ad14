//! What a route asks of its caller: a scope, said in its signature.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::problem::{ErrorClass, Problem};
use crate::access::{Principal, Scope, Visibility};

/// A caller that has the scope which the route asks for.
pub(super) struct Access<S> {
    principal: Principal,
    scope: PhantomData<fn() -> S>,
}

/// A scope as a type.
pub(super) trait Demand {
    const SCOPE: Scope;
}

macro_rules! demands {
    ($($name:ident),+) => {$(
        pub(super) enum $name {}
        impl Demand for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}
demands!(Viewer, Operator, Deployer, Admin);

impl<S> Access<S> {
    /// Who it is.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What a verb asks for beside that of its route.
    ///
    /// # Errors
    /// When the caller may not.
    pub(super) fn demand<T: Demand>(&self) -> Result<(), Problem> {
        if self.principal.may(T::SCOPE) { Ok(()) } else { Err(refused(T::SCOPE)) }
    }

    /// Whose rows it sees.
    pub(super) fn visibility(&self) -> &Visibility {
        &self.principal.visibility
    }
}

impl<T: Send + Sync, S: Demand> FromRequestParts<T> for Access<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &T) -> Result<Self, Problem> {
        // The guard has put it there; without it nothing is allowed.
        let principal = parts.extensions.get::<Principal>().cloned().ok_or_else(|| {
            Problem::new(ErrorClass::Unauthenticated, "KEY_MISSING", "it is not known who asks")
        })?;
        if !principal.may(S::SCOPE) {
            return Err(refused(S::SCOPE));
        }
        Ok(Self { principal, scope: PhantomData })
    }
}

fn refused(scope: Scope) -> Problem {
    let detail = format!("this needs a key with the scope `{scope}`");
    Problem::new(ErrorClass::Forbidden, "SCOPE_MISSING", detail)
}
