//! What the tools of servers were first seen as.

use agentguard_control::tools::ToolQuery;
use agentguard_model::ToolDefinition;
use jiff::Timestamp;

use crate::world::World;

#[tokio::test]
async fn pins_are_told_with_what_changed() {
    let world = World::new().await;
    let tool = |name: &str, text: &str| ToolDefinition {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let now = Timestamp::UNIX_EPOCH;
    let first = [tool("a/b c", r#"{"name":"a/b c"}"#), tool("d", "{}")];
    world.pins.compare("files", &first, now);
    let changed = [tool("a/b c", r#"{"name":"a/b c","title":"x"}"#)];
    world.pins.compare("files", &changed, now);
    let mut client = world.client().await;
    let query = |server: &str, tool: Option<&str>| ToolQuery {
        server: Some(server.to_owned()),
        tool: tool.map(str::to_owned),
    };
    let all = client.tools(&ToolQuery::default()).await.unwrap();
    let names: Vec<_> = all.iter().map(|pin| pin.tool.as_str()).collect();
    assert_eq!(names, ["a/b c", "d"]);
    assert!(client.tools(&query("mail", None)).await.unwrap().is_empty());
    let shown = client.tool(&query("files", Some("a/b c"))).await.unwrap();
    assert_eq!(shown.definition, first[0].text);
    assert_eq!(shown.other_definition.as_ref(), Some(&changed[0].text));
    assert_eq!(shown.change.unwrap().parts[0].pointer, "/title");
    assert_eq!(shown.pin, all[0]);
}
