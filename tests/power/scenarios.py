"""All that is interrupted, one scenario a row: the sweeps, replays and faults go through them."""

from tests.power import repair_story, stories
from tests.power.stories import Scenario

SCENARIOS = (
    Scenario(name="flight", prepare=stories.installed, run=stories.fly, look=stories.look_at_flight),
    Scenario(name="import", prepare=stories.files_on_board, run=stories.import_files, look=stories.look_at_flight),
    Scenario(name="revert", prepare=stories.confirmed, run=stories.revert, look=stories.look_at_state),
    Scenario(
        name="provision", prepare=stories.empty_kit, run=stories.provision_twice, look=stories.look_at_provisioning
    ),
    Scenario(name="rotation", prepare=stories.rotating, run=stories.rotate, look=stories.look_at_root),
    Scenario(name="scrub", prepare=stories.damaged_release, run=stories.scrub, look=stories.look_at_repair),
    Scenario(
        name="repair",
        prepare=repair_story.damaged_beyond_its_guard,
        run=repair_story.repair,
        look=repair_story.look_at_repaired,
    ),
    Scenario(name="record", prepare=stories.damaged_record, run=stories.mend_record, look=stories.look_at_state),
)
