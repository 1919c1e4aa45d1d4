//! HTTP for monitoring, with axum.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

/// Whether the server takes mail, and if not, why: one line for each partition in trouble.
pub type Health = Result<(), String>;

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The source of the figures.
pub trait Source: Send + Sync + 'static {
    /// Prometheus text of all shards.
    fn metrics(&self) -> Answer<String>;
    fn health(&self) -> Answer<Health>;
}

/// Serves the admin port as long as its event loop runs. If the process is out of descriptors, axum
/// pauses for a second and goes on listening.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/", get(index))
        .with_state(source);
    axum::serve(listener, router).await
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> Response {
    let text = source.metrics().await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn health(State(source): State<Arc<dyn Source>>) -> Response {
    match source.health().await {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn index() -> &'static str {
    "ringmail admin\n\n/metrics  Prometheus text\n/healthz  200 \"ok\", or 503 and why\n"
}
