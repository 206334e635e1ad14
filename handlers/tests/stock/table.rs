//! `table-insert`.

use flowmonkey_handlers::StockPolicy;
use serde_json::{Value, json};

use crate::support::Bench;

fn config() -> Value {
    json!({ "tableId": "orders", "mappings": [{ "sourcePath": "id", "column": "order_id" }], "staticValues": { "s": 1 } })
}

#[tokio::test]
async fn one_row_travels_with_the_result_under_the_same_id_in_every_attempt() {
    let bench = Bench::new(StockPolicy::default());
    let mut ids = Vec::new();
    for attempt in 1..=2 {
        let mut task = bench.task("table-insert", config(), json!({ "id": 7 }));
        task.message.attempt = attempt;
        bench.run_task(&task).await.unwrap();
        let (rows, _) = task.take_rows_and_logs();
        assert_eq!(rows.len(), 1);
        assert_eq!(Value::Object(rows[0].row.clone()), json!({ "s": 1, "order_id": 7 }));
        ids.push(rows[0].row_id.clone());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_array_inserts_one_row_for_each_item() {
    let bench = Bench::new(StockPolicy::default());
    let task = bench.task("table-insert", config(), json!([{ "id": 1 }, { "id": 2 }]));
    bench.run_task(&task).await.unwrap();
    let (rows, _) = task.take_rows_and_logs();
    assert_eq!(rows.iter().map(|row| row.row["order_id"].clone()).collect::<Vec<_>>(), [1, 2]);
    let output = bench.run("table-insert", config(), json!([{ "id": 1 }, { "id": 2 }])).await.unwrap();
    assert_eq!(output, json!({ "rowIds": [rows[0].row_id, rows[1].row_id], "success": true }));
}
