//! Routes with their policy. The table of all of them is kept as a golden file.

use std::convert::Infallible;

use axum::{
    Router,
    handler::Handler,
    middleware,
    routing::{MethodFilter, MethodRouter},
};
use http::Method;
use utoipa::{
    PartialSchema,
    openapi::{
        ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        path::{Operation, PathItem},
    },
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::{
    gate::{Foreign, Rule, guard},
    policy::{Access, Policy},
};
use crate::error::Problem;

/// One line of the policy table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Path with its `{parameters}`.
    pub path: String,
    /// Method.
    pub method: String,
    /// Who may.
    pub who: String,
    /// The largest body, bytes.
    pub body_limit: usize,
    /// What else is asked or given, in words.
    pub remarks: String,
}

/// A builder of routes. `S` is the state their handlers take.
pub struct Routes<S = ()> {
    router: OpenApiRouter<S>,
    table: Vec<Entry>,
}

// === impl Routes ===

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes.
    pub fn new() -> Self {
        Self { router: OpenApiRouter::new(), table: Vec::new() }
    }

    /// Adds routes of the API, made by `utoipa_axum::routes!`; all of them have this policy.
    ///
    /// ```text
    /// Routes::new().add(Policy::viewer(), routes!(list)).add(Policy::operator().idempotent(), routes!(create))
    /// ```
    pub fn add(mut self, policy: Policy, (mut schemas, mut paths, methods): UtoipaMethodRouter<S>) -> Self {
        schemas.push(("Problem".into(), Problem::schema()));
        for (path, item) in &mut paths.paths {
            for (method, operation) in operations(item) {
                document(operation, policy);
                self.table.push(entry(path, method, policy, ""));
            }
        }
        let rule = Rule { policy, page: false, foreign: None };
        let methods = methods.route_layer(middleware::from_fn(move |request, next| guard(rule, request, next)));
        self.router = self.router.routes((schemas, paths, methods));
        self
    }

    /// Adds a page or the target of a form. It stands in the policy table, not in the API's description.
    pub fn page<H, T>(mut self, method: Method, path: &'static str, policy: Policy, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("pages use the usual methods");
        self.table.push(entry(path, method.as_str(), policy, "page"));
        let rule = Rule { policy, page: true, foreign: None };
        let methods: MethodRouter<S, Infallible> = MethodRouter::new().on(filter, handler);
        let methods = methods.route_layer(middleware::from_fn(move |request, next| guard(rule, request, next)));
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds something that answers plainly, such as `/livez`: neither page nor API.
    pub fn plain<H, T>(mut self, path: &'static str, policy: Policy, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.table.push(entry(path, "GET", policy, "plain"));
        let rule = Rule { policy, page: false, foreign: None };
        let methods: MethodRouter<S, Infallible> = axum::routing::get(handler);
        let methods = methods.route_layer(middleware::from_fn(move |request, next| guard(rule, request, next)));
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds a route of another system's API, spoken for its clients. It stands in the policy table, not in this API's
    /// description; `say` says the gate's refusals in that system's words.
    pub fn foreign<H, T>(mut self, method: Method, path: &'static str, policy: Policy, say: Foreign, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("foreign routes use the usual methods");
        self.table.push(entry(path, method.as_str(), policy, "foreign"));
        let rule = Rule { policy, page: false, foreign: Some(say) };
        let methods: MethodRouter<S, Infallible> = MethodRouter::new().on(filter, handler);
        let methods = methods.route_layer(middleware::from_fn(move |request, next| guard(rule, request, next)));
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds a gRPC service, by the path of its methods.
    pub fn grpc<T>(mut self, path: &'static str, policy: Policy, service: T) -> Self
    where
        T: tower::Service<axum::extract::Request, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Response: axum::response::IntoResponse,
        T::Future: Send + 'static,
    {
        self.table.push(entry(path, "POST", policy, "grpc"));
        let rule = Rule { policy, page: false, foreign: None };
        let methods: MethodRouter<S, Infallible> = axum::routing::post_service(service);
        let methods = methods.route_layer(middleware::from_fn(move |request, next| guard(rule, request, next)));
        self.router = self.router.route(path, methods);
        self
    }

    /// Adds the routes of another.
    pub fn merge(mut self, other: Self) -> Self {
        self.table.extend(other.table);
        self.router = self.router.merge(other.router);
        self
    }

    /// Gives the handlers their state.
    pub fn with_state(self, state: S) -> Routes {
        Routes { router: self.router.with_state(state), table: self.table }
    }
}

impl Routes {
    /// The table of policies, by path and method.
    pub fn table(&self) -> Vec<Entry> {
        let mut table = self.table.clone();
        table.sort();
        table
    }

    /// The router and the description of the API.
    pub fn split(self) -> (Router, OpenApi) {
        self.router.split_for_parts()
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> std::fmt::Debug for Routes<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.table).finish()
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, method, who, body_limit, remarks } = self;
        write!(f, "{method:<6} {path:<58} {who:<16} {body_limit:>9} {remarks}")
    }
}

fn entry(path: &str, method: &str, policy: Policy, kind: &str) -> Entry {
    let marks = [(true, kind), (policy.idempotent, "idempotency-key"), (policy.before_change, "before-change")];
    let marks: Vec<_> = marks.into_iter().filter(|(on, word)| *on && !word.is_empty()).map(|(_, word)| word).collect();
    Entry {
        path: path.into(),
        method: method.into(),
        who: policy.access.to_string(),
        body_limit: policy.body_limit,
        remarks: marks.join(" "),
    }
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let methods = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
    ];
    methods.into_iter().filter_map(|(name, operation)| Some((name, operation.as_mut()?))).collect()
}

/// Adds what holds for every operation: how to say who one is, and the shape of a refusal.
fn document(operation: &mut Operation, policy: Policy) {
    if policy.access != Access::Public {
        let none: [String; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new("token", none)]);
    }
    let schema = RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name("Problem"));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let problem = ResponseBuilder::new()
        .description(format!("Refused, with what would be right. Who may: {}.", policy.access))
        .content("application/problem+json", content)
        .build();
    operation.responses.responses.entry("default".into()).or_insert_with(|| RefOr::T(problem));
}
