"""What NannyML's documentation says of drift in its car loans, by chunks of 5,000 rows of the analysis.

Sources: its tutorials on univariate drift, on data reconstruction and on ranking (Apache-2.0).
"""

JS = [0.031661, 0.030011, 0.031129, 0.029464, 0.030809, 0.028681, 0.043628, 0.029253, 0.030628, 0.028330]
"""Jensen-Shannon distance of the debt ratio, which has not changed."""
JS_LIMIT = 0.039328
KS = [0.01576, 0.01268, 0.01734, 0.01280, 0.01918, 0.00824, 0.01058, 0.01002, 0.01068, 0.00680]
"""Its Kolmogorov-Smirnov distance."""
KS_LIMIT = 0.018584
JS_ALERTS = {
    "car_value": 6,
    "salary_range": 5,
    "repaid_loan_on_prev_car": 5,
    "loan_length": 5,
    "y_pred_proba": 5,
    "y_pred": 2,
    "repaid": 2,
    "debt_to_income_ratio": 1,
    "size_of_downpayment": 0,
    "driver_tenure": 0,
}
"""Chunks with an alert by Jensen-Shannon distance, of 10."""
ERRORS = [1.14152, 1.13064, 1.13891, 1.14504, 1.13756, 1.24921, 1.24310, 1.25815, 1.22818, 1.25988]
"""Of rows rebuilt from principal components."""
ERRORS_BEFORE = [1.136408, 1.134478, 1.136076, 1.140114, 1.126078, 1.142018, 1.125146, 1.143206, 1.130954, 1.127026]
"""The same of the reference."""
ERROR_LIMITS = (1.115281, 1.153019)
