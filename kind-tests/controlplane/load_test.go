package main

import "testing"

func TestEndpointAddress(t *testing.T) {
	for ordinal, want := range map[int]string{
		0:                     "10.128.0.1",
		254:                   "10.128.0.255",
		255:                   "10.128.1.0",
		65535:                 "10.129.0.0",
		endpointAddresses - 2: "10.255.255.255",
	} {
		if got := endpointAddress(ordinal); got != want {
			t.Errorf("endpoint %d has address %s, want %s", ordinal, got, want)
		}
	}
}

func TestEndpointSlicesAreSplit(t *testing.T) {
	options := loadOptions{prefix: "svc", endpoints: 250, endpointsPerSlice: 100}
	slices := options.endpointSlices(7)
	if len(slices) != 3 || len(slices[0].Endpoints) != 100 || len(slices[2].Endpoints) != 50 {
		t.Fatalf("250 endpoints are not split into 100, 100 and 50")
	}
	if got, want := slices[2].Endpoints[49].Addresses[0], endpointAddress(7*250+249); got != want {
		t.Errorf("the last endpoint has address %s, want %s", got, want)
	}
}

func TestLoadOptionsBounds(t *testing.T) {
	valid := loadOptions{services: 1, endpoints: endpointAddresses - 1, clients: 1, endpointsPerSlice: 1}
	if err := valid.validate(); err != nil {
		t.Errorf("all addresses in use should be allowed: %v", err)
	}
	tooMany := valid
	tooMany.endpoints++
	if tooMany.validate() == nil {
		t.Error("more endpoints than addresses should be refused")
	}
}
