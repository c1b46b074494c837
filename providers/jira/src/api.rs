//! Jira's REST API as far as it is needed: version 3 of Cloud and version 2 of Data Center, which
//! differ in rich text, in search and in the shape of some lists.
//!
//! <https://developer.atlassian.com/cloud/jira/platform/rest/v3/>,
//! <https://developer.atlassian.com/server/jira/platform/rest/>

use std::time::Duration;

use hookport_sdk::serde_json::{self, Value, json};
use hookport_sdk::{Context, DeliveryError, Request, Response, Secret};

use crate::Connection;

/// Field metadata seldom change; a subscription's every delivery would ask for them.
const METADATA_TTL: Duration = Duration::from_secs(600);
/// Waited when Jira limits without saying for how long.
const LIMITED_WAIT: Duration = Duration::from_secs(30);
/// Problems quoted of one answer.
const PROBLEMS_MAX: usize = 8;
const PAGES_MAX: usize = 5;
const PAGE: usize = 50;

/// One site.
pub struct Client<'a> {
    ctx: &'a Context<'a>,
    base_url: &'a str,
    email: Option<&'a str>,
    token: &'a Secret,
}

impl<'a> Client<'a> {
    /// With the credentials of a connection.
    pub fn new(ctx: &'a Context<'a>, connection: &'a Connection) -> Self {
        let (base_url, email, token) = match connection {
            Connection::Cloud {
                base_url,
                email,
                api_token,
            } => (base_url, Some(email.as_str()), api_token),
            Connection::Datacenter {
                base_url,
                api_token,
            } => (base_url, None, api_token),
        };
        Self {
            ctx,
            base_url: base_url.trim_end_matches('/'),
            email,
            token,
        }
    }

    /// Whether this is Jira Cloud.
    pub fn is_cloud(&self) -> bool {
        self.email.is_some()
    }

    fn url(&self, path: &str) -> String {
        let version = if self.is_cloud() { 3 } else { 2 };
        format!("{}/rest/api/{version}/{path}", self.base_url)
    }

    fn send(&self, request: Request) -> Result<Response, DeliveryError> {
        let request = request.header("accept", "application/json");
        let request = match self.email {
            Some(email) => request.basic(email, self.token),
            None => request.bearer(self.token),
        };
        self.ctx.send(request).map_err(DeliveryError::from)
    }

    /// A successful answer, or what went wrong in Jira's words.
    fn call(&self, what: &str, request: Request) -> Result<Response, DeliveryError> {
        let response = self.send(request)?;
        if response.is_success() && !is_html(&response) {
            return Ok(response);
        }
        Err(refused(self.ctx, what, &response))
    }

    /// The same; `None` for 404.
    fn call_found(&self, what: &str, request: Request) -> Result<Option<Response>, DeliveryError> {
        let response = self.send(request)?;
        match response.status {
            404 if !is_html(&response) => Ok(None),
            _ if response.is_success() && !is_html(&response) => Ok(Some(response)),
            _ => Err(refused(self.ctx, what, &response)),
        }
    }

    fn get(&self, what: &str, path: &str, query: &[(&str, &str)]) -> Result<Value, DeliveryError> {
        let request = query
            .iter()
            .fold(Request::get(self.url(path)), |request, (name, value)| {
                request.query(name, value)
            });
        self.call(what, request)?.json()
    }

    /// Whose token it is, and on what.
    pub fn test(&self) -> Result<String, DeliveryError> {
        let me = self.get("the account", "myself", &[])?;
        let server = self.get("the server", "serverInfo", &[])?;
        let cloud = server["deploymentType"] == "Cloud";
        if cloud != self.is_cloud() {
            return Err(DeliveryError::permanent(format!(
                "This is Jira {}: choose that as authMode.",
                if cloud { "Cloud" } else { "Data Center" }
            )));
        }
        let name = me["displayName"]
            .as_str()
            .unwrap_or("an account without a name");
        let version = server["version"]
            .as_str()
            .unwrap_or("of an unknown version");
        Ok(format!("Connected as {name} to Jira {version}."))
    }

    /// The newest issue of a project with a label.
    pub fn find_by_label(
        &self,
        project: &str,
        label: &str,
    ) -> Result<Option<String>, DeliveryError> {
        let jql = format!(
            "project = {} AND labels = {} ORDER BY created DESC",
            quoted(project),
            quoted(label)
        );
        // Cloud has taken the older path away: CHANGE-2046.
        let path = if self.is_cloud() {
            "search/jql"
        } else {
            "search"
        };
        let query = [
            ("jql", jql.as_str()),
            ("fields", "key"),
            ("maxResults", "1"),
        ];
        let found = self.get("the search", path, &query)?;
        Ok(found["issues"][0]["key"].as_str().map(str::to_owned))
    }

    /// Creates an issue; its key.
    pub fn create(&self, fields: &Value) -> Result<String, DeliveryError> {
        let request = Request::post(self.url("issue")).json(&json!({"fields": fields}));
        let created: Value = self.call("the new issue", request)?.json()?;
        let key = created["key"].as_str().map(str::to_owned);
        key.ok_or_else(|| DeliveryError::transient("Jira's answer to the new issue has no key"))
    }

    /// Writes fields. False: there is no such issue.
    pub fn update(&self, key: &str, fields: &Value) -> Result<bool, DeliveryError> {
        let request = Request::new("PUT", self.url(&format!("issue/{}", segment(key))))
            .json(&json!({"fields": fields}));
        Ok(self.call_found("the update", request)?.is_some())
    }

    /// Adds a comment. False: there is no such issue.
    pub fn comment(&self, key: &str, body: &Value) -> Result<bool, DeliveryError> {
        let path = format!("issue/{}/comment", segment(key));
        let request = Request::post(self.url(&path)).json(&json!({"body": body}));
        Ok(self.call_found("the comment", request)?.is_some())
    }

    /// Whether the issue is there.
    pub fn exists(&self, key: &str) -> Result<bool, DeliveryError> {
        let path = format!("issue/{}", segment(key));
        let request = Request::get(self.url(&path)).query("fields", "key");
        Ok(self.call_found("the issue", request)?.is_some())
    }

    /// Makes a transition by its name or by the name of its target. The outer `None`: there is no
    /// such issue; the inner: `repeated`, and the transition is not offered any more.
    pub fn transition(
        &self,
        key: &str,
        wanted: &str,
        repeated: bool,
    ) -> Result<Option<Option<String>>, DeliveryError> {
        let url = self.url(&format!("issue/{}/transitions", segment(key)));
        let Some(listed) = self.call_found("the transitions", Request::get(url.clone()))? else {
            return Ok(None);
        };
        let listed: Value = listed.json()?;
        let offered = listed["transitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let named = |value: &Value| {
            value
                .as_str()
                .is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim()))
        };
        let found = offered
            .iter()
            .find(|one| named(&one["name"]))
            .or_else(|| offered.iter().find(|one| named(&one["to"]["name"])));
        let Some(found) = found else {
            if repeated {
                // An earlier attempt may have made it before something else failed.
                self.ctx
                    .warn(format!("{key} offers no transition {wanted:?} any more"));
                return Ok(Some(None));
            }
            let names: Vec<_> = offered
                .iter()
                .filter_map(|one| one["name"].as_str())
                .collect();
            return Err(DeliveryError::permanent(format!(
                "config.followUp.transitions: {key} offers no transition {wanted:?}; it offers {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            )));
        };
        let body = json!({"transition": {"id": found["id"]}});
        match self.call_found("the transition", Request::post(url).json(&body))? {
            None => Ok(None),
            Some(_) => Ok(Some(found["name"].as_str().map(str::to_owned))),
        }
    }

    /// The fields of a project's issue type, as create metadata describes them.
    pub fn field_metadata(
        &self,
        project: &str,
        issue_type: &str,
    ) -> Result<Vec<Value>, DeliveryError> {
        let cached = format!("fields/{project}/{issue_type}");
        if let Some(known) = self.ctx.cache_get(&cached)
            && let Ok(known) = serde_json::from_slice(&known)
        {
            return Ok(known);
        }
        let path = format!(
            "issue/createmeta/{}/issuetypes/{}",
            segment(project),
            segment(issue_type)
        );
        let fields = self.pages("the fields", &path, "fields")?;
        if let Ok(bytes) = serde_json::to_vec(&fields) {
            self.ctx.cache_set(&cached, &bytes, METADATA_TTL);
        }
        Ok(fields)
    }

    /// The issue types of a project.
    pub fn issue_types(&self, project: &str) -> Result<Vec<Value>, DeliveryError> {
        let path = format!("issue/createmeta/{}/issuetypes", segment(project));
        self.pages("the issue types", &path, "issueTypes")
    }

    /// A list that Cloud calls `name` and Data Center `values`, page after page.
    fn pages(&self, what: &str, path: &str, name: &str) -> Result<Vec<Value>, DeliveryError> {
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let start = all.len().to_string();
            let query = [("startAt", start.as_str()), ("maxResults", "50")];
            let page = self.get(what, path, &query)?;
            let list = page[name].as_array().or_else(|| page["values"].as_array());
            let list = list.cloned().unwrap_or_default();
            let count = list.len();
            all.extend(list);
            let total = page["total"]
                .as_u64()
                .and_then(|total| usize::try_from(total).ok());
            let last = page["isLast"] == true || total.is_some_and(|total| all.len() >= total);
            if last || count < PAGE {
                break;
            }
        }
        Ok(all)
    }

    /// Projects whose name or key contains `search`.
    pub fn projects(&self, search: &str) -> Result<Vec<Value>, DeliveryError> {
        if !self.is_cloud() {
            let all = self.get("the projects", "project", &[])?;
            return Ok(all.as_array().cloned().unwrap_or_default());
        }
        let query = [("query", search), ("maxResults", "50"), ("orderBy", "name")];
        // An empty query is refused.
        let query = if search.is_empty() {
            &query[1..]
        } else {
            &query[..]
        };
        let page = self.get("the projects", "project/search", query)?;
        Ok(page["values"].as_array().cloned().unwrap_or_default())
    }

    /// Every priority.
    pub fn priorities(&self) -> Result<Vec<Value>, DeliveryError> {
        let all = self.get("the priorities", "priority", &[])?;
        Ok(all.as_array().cloned().unwrap_or_default())
    }
}

/// A JQL string: quotes and backslashes are escaped, so that a value cannot become a clause.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A segment of a path.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn is_html(response: &Response) -> bool {
    let declared = response
        .header("content-type")
        .is_some_and(|kind| kind.contains("text/html"));
    declared || response.body.trim_ascii_start().starts_with(b"<")
}

/// Jira's own words on what is wrong, field by field.
fn problems(response: &Response) -> String {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let general = body["errorMessages"].as_array().into_iter().flatten();
    let general = general.filter_map(|text| text.as_str().map(str::to_owned));
    let fields = body["errors"].as_object().into_iter().flatten();
    let fields =
        fields.map(|(field, text)| format!("{field}: {}", text.as_str().unwrap_or("wrong")));
    let message = body["message"].as_str().map(str::to_owned);
    let all: Vec<String> = fields
        .chain(general)
        .chain(message)
        .take(PROBLEMS_MAX)
        .collect();
    all.join("; ")
}

fn refused(ctx: &Context, what: &str, response: &Response) -> DeliveryError {
    let status = response.status;
    if is_html(response) && (response.is_success() || matches!(status, 301..=399 | 401 | 403 | 404))
    {
        return DeliveryError::permanent(format!(
            "Jira answered {what} with a web page ({status}): check the connection's baseUrl, and whether a login page or proxy stands before it"
        ));
    }
    let said = match problems(response) {
        said if said.is_empty() => String::new(),
        said => format!(": {said}"),
    };
    let message = |remedy: &str| format!("Jira refused {what} ({status}){said}{remedy}");
    match status {
        401 => DeliveryError::permanent(message(
            "; enter a valid e-mail and API token in the connection, the token may have expired",
        )),
        403 => DeliveryError::permanent(message(
            "; the account needs the permission in this project, or must log in once to solve a CAPTCHA",
        )),
        404 => DeliveryError::permanent(message(
            "; check project and issue type, and that the account sees them",
        )),
        413 => DeliveryError::permanent(message("; shorten the description")),
        429 => {
            let wait = response.retry_after(ctx.now()).unwrap_or(LIMITED_WAIT);
            DeliveryError::after(wait, message(""))
        }
        408 | 409 | 425 | 500..=599 => match response.retry_after(ctx.now()) {
            Some(wait) => DeliveryError::after(wait, message("")),
            None => DeliveryError::transient(message("")),
        },
        _ => DeliveryError::permanent(message("")),
    }
}
