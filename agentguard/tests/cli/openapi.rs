//! `agentguard policy openapi`

use serde_json::Value;

use crate::world::agentguard;

const API: &str = r##"
openapi: 3.0.3
info: {title: Tracker, version: "1"}
servers: [{url: "https://Tracker.example.com/api/v2"}, {url: "https://{region}.example.com"}]
components:
  parameters:
    labels: {name: "labels[]", in: query, schema: {$ref: "#/components/schemas/names"}}
  schemas:
    names: {type: array, items: {type: string}}
    price: {type: number}
    loop: {anyOf: [{$ref: "#/components/schemas/loop"}, {$ref: "#/components/schemas/loop"}]}
paths:
  /issues:
    parameters: [{name: state, in: query, schema: {type: [array, "null"]}}]
    get:
      operationId: listIssues
      parameters:
        - {$ref: "#/components/parameters/labels"}
        - {name: fields, in: query, explode: false, schema: {type: array}}
        - {name: page, in: query, schema: {type: integer}}
      responses: {"200": {description: OK}}
    post:
      operationId: createIssue
      requestBody: {content: {multipart/form-data: {schema: {properties: {files: {type: array}, title: {type: string}}}}}}
      responses: {"201": {description: made}}
  /orders/{order}:
    parameters:
      - {name: order, in: path, required: true, schema: {type: string}}
      - {name: page, in: query, schema: {type: string}}
    put:
      operationId: order
      parameters:
        - {name: order, in: path, required: true, schema: {type: integer, format: int64}}
        - {name: page, in: query, schema: {anyOf: [{type: integer}, {type: "null"}]}}
        - {name: price, in: query, schema: {allOf: [{$ref: "#/components/schemas/price"}, {maximum: 9}]}}
        - {name: dry, in: query, schema: {type: [boolean, "null"]}}
        - {name: "ids[]", in: query, schema: {type: array, items: {type: integer}}}
        - {name: both, in: query, schema: {oneOf: [{type: integer}, {type: string}]}}
        - {name: joined, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: huge, in: query, schema: {type: integer, format: uint64}}
        - {name: bare, in: query, allowEmptyValue: true, schema: {type: boolean}}
        - {name: loop, in: query, schema: {$ref: "#/components/schemas/loop"}}
        - {name: in json, in: query, schema: {type: integer}}
        - {name: X-Page, in: header, schema: {type: integer}}
      requestBody:
        content:
          application/x-www-form-urlencoded:
            schema: {properties: {count: {type: integer}, rate: {type: number}, same: {type: integer}, name: {type: string}}}
          multipart/form-data:
            schema: {properties: {count: {type: integer}, flags: {type: array, items: {type: boolean}}, file: {type: string, format: binary}}}
          application/json:
            schema: {properties: {count: {type: integer}, rate: {type: [number, "null"]}, same: {type: string}, only: {type: integer}}}
      responses: {"200": {description: OK}}
  /old:
    post: {operationId: old, responses: {"201": {description: made}}}
  /issues/{number}:
    get: {operationId: readIssue, responses: {"200": {description: OK}}}
    delete: {responses: {"204": {description: gone}}}
  /issues/{id}:
    get: {operationId: findIssue, responses: {"200": {description: OK}}}
    patch: {operationId: listIssues, responses: {"200": {description: OK}}}
  /files/{name}.{format}:
    get: {operationId: readFile, responses: {"200": {description: OK}}}
  /files/{name}:download:
    post: {operationId: downloadFile, responses: {"200": {description: OK}}}
  /pairs/{one}{other}:
    get: {operationId: readPair, responses: {"200": {description: OK}}}
  /elsewhere: {$ref: "other.yaml"}
"##;

const TOOLS: &str = r#"version: 1
tool_servers:
  - name: "tracker"
    api: http
    hosts: ["tracker.example.com"]
    tools:
      - {name: "readFile", method: [GET], path: "/api/v2/files/{name}.{format}"}
      - {name: "downloadFile", method: [POST], path: "/api/v2/files/{name}:download"}
      - {name: "listIssues", method: [GET], path: "/api/v2/issues", lists: ["labels[]", "state"], types: {"page": integer}}
      - {name: "createIssue", method: [POST], path: "/api/v2/issues", lists: ["files", "state"]}
      - {name: "findIssue", method: [GET], path: "/api/v2/issues/{id}"}
      - {name: "delete_api_v2_issues_number", method: [DELETE], path: "/api/v2/issues/{number}"}
      - {name: "old", method: [POST], path: "/api/v2/old"}
      - {name: "order", method: [PUT], path: "/api/v2/orders/{order}", lists: ["flags", "ids[]"], types: {"count": integer, "dry": boolean, "flags": boolean, "ids": integer, "order": integer, "page": integer, "price": number}}
"#;

/// In YAML and in JSON; and the policy that includes what was made decides by it.
#[test]
fn the_operations_of_an_api_become_tools_of_a_policy() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let json: Value = agentguard_policy::yaml::parse("api.yaml", API).unwrap();
    for (name, text) in [("api.yaml", API.to_owned()), ("api.json", json.to_string())] {
        std::fs::write(at(name), text).unwrap();
        let said = agentguard(["policy", "openapi", &at(name), "--name", "tracker"]).run();
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (0, TOOLS),
            "{}",
            said.stderr
        );
        for told in [
            "PATCH /api/v2/issues/{id}: another operation is named `listIssues` too",
            "GET /api/v2/issues/{number}: some requests are `readIssue` as well as `findIssue`",
            "GET /api/v2/pairs/{one}{other}: the path `/api/v2/pairs/{one}{other}` has two parameters without text between them",
            "* /api/v2/elsewhere: its operations stand elsewhere (`$ref`)",
            "no type that can be said, so that it is a text: `in json` of PUT /api/v2/orders/{order}",
            "not taken for a host, since it has a variable: https://{region}.example.com",
            "8 tools, 4 left out",
        ] {
            assert!(said.stderr.contains(told), "{told}: {}", said.stderr);
        }
    }
    std::fs::write(at("tracker.yaml"), TOOLS).unwrap();
    let policy = "version: 1
include: [tracker.yaml]
agents: [{name: coder}]
rules:
  - {id: reads, match: {host: [tracker.example.com], port: [443], tool: {server: [tracker], name: [find*, list*]}}, action: allow, handling: inspect}
  - {id: texts, match: {host: [tracker.example.com], port: [443], tool: {server: [tracker], name: [readFile], arguments: {/format: [txt]}}}, action: allow, handling: inspect}
  # Arguments without a type are texts, of which an expression makes numbers: one that is none is not allowed.
  - {id: first, match: {host: [tracker.example.com], port: [443], tool: {server: [tracker], name: [createIssue]}}, when: \"int(tool.arguments['/page']) <= 10\", action: allow, handling: inspect}
  # Those that have a type are numbers already.
  - {id: orders, match: {host: [tracker.example.com], port: [443], tool: {server: [tracker], name: [order]}}, when: \"tool.arguments['/price'] <= 9.5 && !tool.arguments['/dry']\", action: allow, handling: inspect}
";
    std::fs::write(at("policy.yaml"), policy).unwrap();
    let tests = "version: 1
tests:
  - {name: read, agent: coder, host: tracker.example.com, port: 443, request: {method: GET, path: /api/v2/issues/7, tool: {name: findIssue}}, expect: allow}
  - {name: delete, agent: coder, host: tracker.example.com, port: 443, request: {method: DELETE, path: /api/v2/issues/7, tool: {name: delete_api_v2_issues_number}}, expect: deny}
  - {name: text, agent: coder, host: tracker.example.com, port: 443, request: {method: GET, path: /api/v2/files/a.txt, tool: {name: readFile, arguments: {/name: a, /format: txt}}}, expect: allow}
  - {name: key, agent: coder, host: tracker.example.com, port: 443, request: {method: GET, path: /api/v2/files/a.pem, tool: {name: readFile, arguments: {/name: a, /format: pem}}}, expect: deny}
  - {name: first, agent: coder, host: tracker.example.com, port: 443, request: {method: POST, path: /api/v2/issues, tool: {name: createIssue, arguments: {/page: '7'}}}, expect: allow}
  - {name: later, agent: coder, host: tracker.example.com, port: 443, request: {method: POST, path: /api/v2/issues, tool: {name: createIssue, arguments: {/page: '70'}}}, expect: deny}
  - {name: no number, agent: coder, host: tracker.example.com, port: 443, request: {method: POST, path: /api/v2/issues, tool: {name: createIssue, arguments: {/page: seven}}}, expect: deny}
  - {name: half, agent: coder, host: tracker.example.com, port: 443, request: {method: POST, path: /api/v2/issues, tool: {name: createIssue, arguments: {/page: '7.5'}}}, expect: deny}
  - {name: cheap, agent: coder, host: tracker.example.com, port: 443, request: {method: PUT, path: /api/v2/orders/7, tool: {name: order, arguments: {/order: 7, /price: 9.50, /dry: 'false'}}}, expect: allow}
  - {name: dear, agent: coder, host: tracker.example.com, port: 443, request: {method: PUT, path: /api/v2/orders/7, tool: {name: order, arguments: {/order: 7, /price: 10, /dry: 'false'}}}, expect: deny}
  - {name: dry, agent: coder, host: tracker.example.com, port: 443, request: {method: PUT, path: /api/v2/orders/7, tool: {name: order, arguments: {/order: 7, /price: 9, /dry: 'true'}}}, expect: deny}
  - {name: without, agent: coder, host: tracker.example.com, port: 443, request: {method: POST, path: /api/v2/issues, tool: {name: createIssue}}, expect: deny}
";
    std::fs::write(at("policy.test.yaml"), tests).unwrap();
    let said = agentguard(["policy", "test", &at("policy.test.yaml")]).run();
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
}

#[test]
fn what_makes_no_tools_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("api");
    let path = file.to_str().unwrap();
    for (text, options, told) in [
        ("swagger: '2.0'\n", &[][..], "no document of OpenAPI 3"),
        ("{\"openapi\":", &[], ":1:11: it is no JSON"),
        ("openapi: [\n", &[], "cannot be used"),
        ("openapi: 3.1.0\npaths: {}\n", &[], "--host api.example.com"),
        (
            "openapi: 3.1.0\npaths: {}\n",
            &["--host", "a.example"],
            "no operation that can be a tool",
        ),
        (
            "openapi: 3.1.0\npaths: {/a: {get: {}}}\n",
            &["--host", "not a host"],
            "makes no server of tools: 1 error",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let words = ["policy", "openapi", path, "--name", "t"].into_iter();
        let said = agentguard(words.chain(options.iter().copied())).run();
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{text}");
        assert!(said.stderr.contains(told), "{text}: {}", said.stderr);
    }
}
