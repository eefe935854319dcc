"""Hospitals of different size that may not share patients: what differential privacy costs, by its noise.

python examples/hospital.py                 # needs the extra `privacy`
"""

import fedsim

PATIENTS = {  # stands for a table of patients: data=csv data.path=FILE data.client_column=hospital ...
    **{"data": "synthetic", "data.clients": 300, "data.samples_per_client": 12, "data.test_samples_per_client": 4},
    **{"partition": "natural", "sampler": "poisson", "sampler.probability": 0.2, "aggregator": "mean"},
}


def main(**settings):
    """Print accuracy and epsilon for several amounts of noise; without privacy there is no epsilon."""
    found = [("none", fedsim.run(PATIENTS, {"rounds": 30, "threads": 1}, settings))]
    for noise in (0.5, 1.0, 2.0):
        private = {"privacy": "central_dp", "privacy.noise_multiplier": noise, "privacy.clip_norm": 0.5}
        found.append((noise, fedsim.run(PATIENTS, private, {"rounds": 30, "threads": 1}, settings)))
    for noise, run in found:
        last = run.metrics.iloc[-1]
        print(
            f"noise {noise!s:5} accuracy {last['test_accuracy']:.3f}  epsilon {last.get('epsilon', float('inf')):.2f}"
        )
    return found


if __name__ == "__main__":
    main()
