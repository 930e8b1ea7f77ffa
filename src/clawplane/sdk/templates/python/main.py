"""worker-name: one row per item of the input's list "items", with its length."""

import sys

from sdk import CoreSDK


def main() -> None:
    items = CoreSDK.Parameter.get_input_json_dict().get("items", [])
    CoreSDK.Result.set_table_header(
        [
            {"label": "Item", "key": "item", "format": "text"},
            {"label": "Length", "key": "length", "format": "integer"},
        ]
    )
    for item in items:
        CoreSDK.Result.push_data({"item": item, "length": len(item)})
    CoreSDK.Log.info(f"{len(items)} items done")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        CoreSDK.Log.error(f"{type(error).__name__}: {error}")
        sys.exit(1)
