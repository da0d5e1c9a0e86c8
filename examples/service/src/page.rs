//! The page at `/`: three files, as they are.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;

use crate::service::Service;

pub fn routes() -> Router<Service> {
    let css = ([(CONTENT_TYPE, "text/css")], include_str!("page/style.css"));
    let script = ([(CONTENT_TYPE, "text/javascript")], include_str!("page/page.js"));
    Router::new()
        .route("/", get(Html(include_str!("page/index.html"))))
        .route("/style.css", get(css))
        .route("/page.js", get(script))
}
