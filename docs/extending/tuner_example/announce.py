from tuner.results.listener import Listener


class Announce(Listener):
    name = "announce"

    def trial_ended(self, record):
        print(f"{record.label} ended: {record.state}")
